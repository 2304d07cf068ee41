"""The quirks of the paper's released code (arXiv 2410.04891), one by one, and the options that reproduce them.

docs/researcher.md lists them in a table, which is compared with the profiles of the paper's study and with the values
that the options take. The other tests check that each option does what the table says.
"""

import re
from argparse import Namespace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.state import State
from stages.core.family import families
from stages.core.params import Params, Sample, Train, load
from stages.core.runs import Run, TaskSequence, runs
from stages.core.states import state_after
from stages.core.strategy import strategies
from stages.datasets import dreambooth
from stages.families.unet.denoiser import Settings
from stages.files import artifact
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator
from stages.sampling.noise import noises
from stages.tools import profiles
from stages.tools.forecasting.workload import count
from stages.tools.sign_conflicts import compare
from stages.training import task as training_task
from stages.training.examples import Material
from stages.training.loop import Losses
from tests.datasets.test_dreambooth import write_subjects
from tests.families.test_denoiser import levels, noise_of, unet_prompts
from tests.support.workspace import ONE_METRIC, workspace

PAPER = {"objects": profiles.tree("sdxl-objects"), "styles": profiles.tree("sdxl-styles")}
both = pytest.mark.parametrize("domain", PAPER)
NOT_REPRODUCED = {6, 7, 8, 9, 14, 15, 16, 18}  # the table gives the reasons
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.M)
TABLE = {
    int(n): (quirk, option, other) for n, quirk, option, other in ROW.findall(Path("docs/researcher.md").read_text())
}
PUBLISHED = ("naive", "merge_init", "ortho_init", "magmax")
STAGES = ("start", "train", "merge", "sample")  # of one task
OPTION = re.compile(r"`([\w.]+): (.+)`")  # of params.yaml


def test_the_table_has_every_quirk():
    assert sorted(TABLE) == list(range(1, 19))
    assert {n for n, (_, option, _) in TABLE.items() if option == "not reproduced"} == NOT_REPRODUCED


@pytest.mark.parametrize("number", [n for n, (_, option, _) in TABLE.items() if OPTION.fullmatch(option)])
@both
def test_the_papers_profiles_have_the_published_value_and_accept_the_other(number, domain):
    _, published, other = TABLE[number]
    key, value = OPTION.fullmatch(published).groups()  # type: ignore[union-attr]
    if key == "dataset.name" and domain != "objects":
        return
    *sections, last = key.split(".")
    study = profiles.tree(f"sdxl-{domain}")
    section = study
    for name in sections:
        section = section[name]
    expected = YAML(typ="safe").load(value)
    assert section.get(last) == expected, key
    if not (alternative := re.fullmatch(r"`([\w{}]+)`", other)):
        return
    section[last] = YAML(typ="safe").load(alternative[1])
    assert section[last] != expected
    if sections[0] == "strategy":
        section["merging"] = "exact"  # which row_space needs
        strategies.make(sections[1], section)
    else:
        {"train": Train, "sample": Sample}[sections[0]](**study[sections[0]])


N, RANK = 640, 64


def draws() -> tuple[Tensor, Tensor]:
    """The A drawn for a task and for the next."""
    return tuple(fresh_adapter({"m": (N, N)}, RANK, RANK, generator(0, i)).a["m"] for i in (1, 2))  # type: ignore[return-value]


def overlap(old: Tensor, new: Tensor) -> float:
    """How much of the new rows' span is in the old rows' span, 0 to 1."""
    bases = [torch.linalg.qr(a.T.double()).Q for a in (old, new)]
    return float((bases[0].T @ bases[1]).square().sum() / RANK)


def started(init: str, scale: str = "unit") -> Tensor:
    old, fresh = (Adapter({"m": a}, {"m": torch.zeros(N, RANK)}) for a in draws())
    merging = "exact" if init == "row_space" else "factors"
    strategy = strategies.make("ortho_init", {"init": init, "scale": scale, "merging": merging})
    return strategy.start(State(old.delta, old), fresh).a["m"]


def test_quirk_1_orthogonal_columns_point_the_same_way_and_are_eight_times_longer():
    energies = [torch.linalg.svdvals(a.double()).square() for a in (started("columns"), draws()[1])]
    orthogonal, random = (float(energy[0] / energy.sum()) for energy in energies)
    assert orthogonal > 0.95
    assert random < 0.05
    lengths = [float(a.norm(dim=0).mean()) for a in (started("columns"), started("columns", "matched"), draws()[1])]
    assert lengths == pytest.approx([1.0, lengths[2], 1 / 8], rel=0.01)


def test_quirk_2_columns_leave_the_row_spaces_overlapping_and_row_space_does_not():
    old, plain = draws()
    assert (
        overlap(old, started("columns")) == pytest.approx(overlap(old, plain), rel=0.1) == pytest.approx(0.1, rel=0.1)
    )
    assert overlap(old, started("row_space")) < 1e-6


def test_quirk_2_row_space_is_orthogonal_to_all_earlier_tasks_and_refused_if_they_are_unknown():
    """Added factors keep only the sum of all A: orthogonal to the sum is not orthogonal to each of them."""
    adapters = [
        Adapter(*({"m": torch.randn(s, generator=generator(i, *s))} for s in ((8, 96), (64, 8)))) for i in range(3)
    ]
    strategy = strategies.make("ortho_init", {"init": "row_space", "merging": "exact"})
    state = State()
    for trained in adapters[:2]:
        state = strategy.merge(state, Adapter(strategy.start(state, trained).a, trained.b), generator("merge"))
    first, second = (term.a["m"] for term in state.delta.terms)
    summed = Adapter({"m": first + second}, adapters[0].b)

    def cosine(before: State) -> float:
        third = strategy.start(before, adapters[2]).a["m"]
        return max(float((third @ old.T).norm() / (third.norm() * old.norm())) for old in (first, second))

    assert cosine(state) < 1e-6
    assert cosine(State(summed.delta, summed)) > 0.05
    with pytest.raises(ConfigFault, match="strategy ortho_init: init: row_space needs merging: exact") as refused:
        strategies.make("ortho_init", {"init": "row_space"})
    assert "\n" not in str(refused.value)


def test_quirk_3_added_factors_have_cross_terms_as_large_as_the_delta():
    rng = torch.Generator().manual_seed(0)
    parts = [Adapter(*({"m": torch.randn(s, generator=rng)} for s in ((16, 96), (96, 16)))) for _ in range(2)]
    exact = parts[0].module("m") + parts[1].module("m")

    def error(merging: str) -> float:
        strategy = strategies.make("ortho_init", {"merging": merging})
        merged = strategy.merge(
            strategy.merge(State(), parts[0], generator("merge")), parts[1], generator("merge")
        ).delta.module("m")
        assert merged is not None
        return float((merged - exact).norm() / exact.norm())

    assert error("factors") == pytest.approx(1.0, abs=0.1)
    assert error("exact") < 1e-6


class Beginning:
    """A family, and a training in it, that returns the adapter at step 0."""

    fingerprint = "beginning"

    def __init__(self, *args: Any) -> None:
        self.learner_of = args[0] if args else None

    def shapes(self) -> dict[str, tuple[int, int]]:
        return {"m": (6, 8)}

    def learner(self, frozen: Delta | None, start: Adapter, options: Train) -> Adapter:
        return start

    def run(self, *material: object) -> tuple[Adapter, Losses]:
        return self.learner_of, Losses()  # type: ignore[return-value]


@cache
def default() -> Params:
    return load()


def first_a(monkeypatch, reinit: str, strategy: str, order: str, index: str, seed: int = 0) -> Tensor:
    """The A at step 0 of a task, with nothing learned before."""
    study = default().model_copy(update={"train": default().train.model_copy(update={"reinit": reinit})})
    monkeypatch.setattr(training_task, "Training", Beginning)
    monkeypatch.setattr(training_task, "concept_examples", lambda *args: [])
    monkeypatch.setattr(training_task, "encode_examples", lambda *args: Material([], {}, [], 0))
    concept = {"token": "sks", "noun": "mug", "prompts": []}
    run = Run(TaskSequence("study", "objects", order), strategy, seed)
    with families.substitute(study.base.name, Beginning()):  # type: ignore[arg-type]
        adapter, _ = training_task.train(study, run, index, training_task.Inputs({"concept": concept}, [], State()))
    return adapter.a["m"]


def test_quirk_4_every_task_order_and_strategy_starts_with_the_same_a(monkeypatch):
    def drawn(reinit: str, seed: int = 0) -> dict[tuple[str, str, str], bytes]:
        cells = [(name, order, index) for name in PUBLISHED for order in ("0", "5") for index in ("01", "02")]
        return {cell: first_a(monkeypatch, reinit, *cell, seed).numpy().tobytes() for cell in cells}

    shared, own = drawn("shared"), drawn("per_task")
    assert len({*shared.values()}) == 1
    assert {*drawn("shared", 5).values()} != {*shared.values()}  # depends on the seed
    assert len({*own.values()}) == 2 * 2  # one for each order and task, the same for all strategies
    assert not {*own.values()} & {*shared.values()}
    for (_, order, index), value in own.items():
        assert {v for (_, o, i), v in own.items() if (o, i) == (order, index)} == {value}


@both
def test_quirk_4_a_stays_close_to_its_draw(domain):
    train = PAPER[domain]["train"]
    farthest = train["learning_rate"] * train["steps"]  # Adam's steps are at most the learning rate
    assert farthest < 1 / train["rank"]  # the standard deviation of the draw


@pytest.mark.slow
def test_quirk_5_only_one_strategy_is_sampled_with_another_scheduler(tmp_path, monkeypatch):
    """After the first task the two have the same model, so that their pictures differ only by the scheduler."""
    sample = {
        "images": 1,
        "steps": 4,
        "guidance": 3.0,
        "plain": 0,
        "scheduler": "euler",
        "schedulers": PAPER["objects"]["sample"]["schedulers"],
    }
    (other,) = sample["schedulers"]
    usual = "magmax"
    monkeypatch.chdir(workspace(tmp_path / "w", 1, strategies=[other, usual], sample=sample, score=ONE_METRIC))
    study = load()
    stage = {name: getattr(import_module(f"stages.{name}"), name) for name in ("prepare", *STAGES)}
    stage["prepare"](study, runs(study)[0].sequence, Namespace(task="01"))
    results = {}
    for run in runs(study):
        for name in STAGES:
            stage[name](study, run, Namespace(task="01"))
        manifest = artifact.read(run.at("01") / "images", "images")
        pictures = [Image.open(run.at("01") / "images" / file) for file in sorted(manifest["files"])]
        results[run.strategy] = manifest["sample"], levels(pictures)
        prompts = study.family.encode_prompts(manifest["tasks"]["01"]["prompts"])
        study.family.shift(state_after(study, run, "01").delta)
        noise = noises(study.sample, 1, study.family.noise_shape()).repeat(len(pictures), 1, 1, 1)
        scheduler = "dpmpp" if run.strategy == other else "euler"
        assert abs(levels(study.family.sample(prompts, noise, 4, 3.0, scheduler)) - results[run.strategy][1]).max() <= 1
        assert manifest["sample"]["scheduler"] == scheduler
        arguments = {"key": str(run), "task": "01", "what": "state", "prompt": manifest["tasks"]["01"]["prompts"][:1]}
        import_module("stages.tools.paint").paint(study, None, Namespace(**arguments, to=Path(run.strategy)))
        assert abs(levels([Image.open(Path(run.strategy, "00-00.png"))]) - levels(pictures[:1])).max() <= 1
    assert abs(results[other][1] - results[usual][1]).max() > 8
    import_module("stages.sample").sample(study, runs(study)[0].sequence, Namespace(task=None))
    # No picture is shared by two strategies; one more of each was painted.
    assert count(study).sampled == len(list(Path(".cache/images").rglob("*.png"))) - 2
    assert results[other][0] | {"scheduler": "euler"} == results[usual][0]


def test_quirk_5_that_scheduler_is_dpm_solver_in_the_bases_configuration():
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    family = load().family
    configuration = family.pipeline.scheduler.config
    for name, kind in (("dpmpp", DPMSolverMultistepScheduler), ("euler", EulerDiscreteScheduler)):
        scheduler = family.denoiser.prepare(unet_prompts(family), noise_of(family), Settings(6, 5.0, name)).scheduler
        assert type(scheduler) is kind
        assert dict(scheduler.config) == dict(kind.from_config(configuration).config)
    assert (scheduler := DPMSolverMultistepScheduler.from_config(configuration)).config.solver_order == 2
    assert scheduler.config.algorithm_type == "dpmsolver++"


def test_quirk_10_and_11_references_are_the_training_photos_and_no_metric_reads_the_prompt(tmp_path):
    """CLIP-T, which the published results do not have, is one more metric."""
    concept = dreambooth.DreamBooth(root=str(write_subjects(tmp_path))).concept("objects", "can")
    assert concept.references == concept.training
    assert "clip_t" in PAPER["objects"]["score"]["metrics"]
    clothes = [prompt for prompt in dreambooth.PROMPTS if re.search("outfit|hat", prompt)]
    assert len(clothes) == 3  # DreamBooth's prompts for live subjects, used for cans and candles


@both
def test_quirk_12_only_concepts_learned_so_far_are_sampled(domain):
    """`sees: data` also samples later concepts, and the base is always sampled on all."""
    assert all(task["sees"] == f"data/{task['index']}" for task in PAPER[domain]["tasks"])


def test_quirk_17_magmax_merges_to_a_delta_of_full_rank():
    rng = torch.Generator().manual_seed(0)
    parts = [Adapter(*({"m": torch.randn(s, generator=rng)} for s in ((4, 64), (64, 4)))) for _ in range(2)]
    strategy = strategies.make("magmax")
    merged = strategy.merge(strategy.merge(State(), parts[0], generator("merge")), parts[1], generator("merge")).delta
    energy = torch.linalg.svdvals(merged.module("m")).square()  # type: ignore[arg-type]
    assert "m" in merged.dense
    assert int(torch.linalg.matrix_rank(merged.module("m"))) == 64
    assert int((energy.cumsum(0) / energy.sum() < 0.99).sum()) > 2 * 8  # their sum has rank 8


def test_quirk_13_signs_are_compared_with_a_sum_that_includes_the_compared_task():
    """Three tasks on two entries: the second reverses the first, the third continues."""
    deltas = torch.tensor([[2.0, 1.0], [-1.0, 1.0], [-3.0, 0.0]])
    states = [Delta(), *(Delta(dense={"m": total[:, None]}) for total in deltas.cumsum(0))]

    def conflicts(against: str) -> dict[tuple[int, int], tuple[float, float]]:
        pairs = compare(states, lambda name: torch.zeros(2, 1), against)  # type: ignore[arg-type]
        return {(c.earlier, c.later): (c.share, c.weight) for c in pairs}

    # The delta of task 1 is (2, 1); the sum after task 2 is (1, 2), which shows no conflict, after task 3 (-2, 2).
    norm = 5**0.5
    assert conflicts("model") == {
        (1, 2): (0.0, 0.0),
        (1, 3): (0.5, pytest.approx(2 / norm)),
        (2, 3): (0.0, 0.0),  # (-1, 1) with (-4, 1)
    }
    assert conflicts("task") == {
        (1, 2): (0.5, pytest.approx(1 / 2**0.5)),  # (2, 1) with (-1, 1)
        (1, 3): (0.5, 1.0),  # (2, 1) with (-3, 0)
        (2, 3): (0.0, 0.0),
    }


def test_pictures_are_sampled_in_float32_unless_a_memory_preset_changes_it():
    for name in ("sdxl-objects", "sdxl-styles"):
        assert profiles.tree(name)["base"]["options"]["dtype"] == "float32"
        assert profiles.tree(name, "80")["base"]["options"]["dtype"] == "float16"
