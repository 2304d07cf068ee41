"""The paper's released code (arXiv 2410.04891), point by point; its quirks are in test_quirks.py.

Each point is reproduced by a named option, or listed in OTHERWISE with the size of the difference. Selections, tokens
and orders are tested under tests/datasets, formulas under tests/evaluation; these tests check that the profiles of the
paper's study use them.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, Resize

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.state import State
from stages.core.dataset import Concept, Picture, facts_of
from stages.core.metric import pairwise
from stages.core.params import Prepare, Sample, Train, Watch, load
from stages.core.runs import Run, TaskSequence
from stages.core.strategy import strategies
from stages.datasets import dreambooth, unlearn_canvas
from stages.evaluation.statistics import judge
from stages.files import artifact
from stages.metrics.dino import Dino
from stages.monitoring.previews import Previews
from stages.photos.develop import KnownPhotos, develop, fit, read_data
from stages.reporting import wording
from stages.runtime.seeds import generator
from stages.sampling import sampler
from stages.tools import profiles
from stages.training import task as training_task
from tests.datasets.test_dreambooth import CHOSEN, CLASSES, ORDERS, write_subjects
from tests.datasets.test_unlearn_canvas import FROM_50, FROM_60
from tests.evaluation.test_statistics import noise, report, results_of
from tests.evaluation.test_transfer import HAND

PAPER = {"objects": profiles.tree("sdxl-objects"), "styles": profiles.tree("sdxl-styles")}
both = pytest.mark.parametrize("domain", PAPER)
# What differs from the published code on purpose, and by how much if known.
OTHERWISE = {
    "8-bit AdamW": "AdamW in float32: its states are too small a part of the memory to be worth rounding; the effect "
    "is unknown, because the 8-bit version needs a GPU",
    "draws": "of A, and of noise, times and posterior in training: the same distributions, but functions of seed, "
    "order, task and step, where the published ones come from one generator; differs like another seed",
    "noise": "of samples: with the published seed, count and shape, but drawn on the CPU, so that it is the same on "
    "every device; the published bits are those of CUDA's generator, so that pictures differ as with other noise",
    "crops": "the middle of a photo that is not square, where the published crop is random; all of the 54 photos and "
    "the pictures of UnlearnCanvas are square, so nothing differs",
    "photos": "turned as their EXIF data says and converted to sRGB before they are references; changes no pixel of "
    "the 54 photos",
    "xformers": "torch's attention: differs by rounding of float32",
    "batches": "8 pictures at a time, not 5: differs by rounding of float32, at most one of 255 levels",
    "judges": "CLIP by open_clip, DINO by timm, CSD in open_clip's tower: vectors differ by less than 2e-6; "
    "loaded once, not for every pair",
    "pictures": "PNG instead of pickles of the same 8-bit pixels: nothing differs",
    "spread": "also intervals over orders, seeds, concepts, prompts and noises",
    "validation": "pictures every few steps, not epochs, with the study's own steps and scheduler (there 25 steps of "
    "DPM-Solver++ under autocast); no measurement depends on them",
    "checkpoints": "every 50 steps, not only at step 500: nothing differs",
    "whole UNets": "task vectors cover the attention projections; nothing else is trained, so its delta is zero",
    "whole pipelines": "a state is stored as adapters or as the changed matrices: sums in float32, rounded once",
}

# --- the settings -----------------------------------------------------------------------------------------------------


@both
def test_hyperparameters(domain):
    study = PAPER[domain]
    train = Train(**study["train"])
    assert (train.rank, train.alpha, train.steps, train.batch) == (64, 64, 850, 1)
    assert train.conditioning == "source"  # each photo's own size and crop
    assert (train.learning_rate, train.schedule, train.clip_norm) == (1e-5, "constant", 1.0)
    assert (train.betas, train.weight_decay, train.epsilon) == ((0.9, 0.999), 1e-4, 1e-8)
    assert (study["prepare"]["resolution"], study["prepare"].get("buckets", False)) == (1024, False)
    assert study["base"]["name"] == "sdxl"
    assert study["base"]["options"]["dtype"] == "float32"
    assert "fp16-fix" in study["base"]["options"]["vae"]


def test_a_fresh_adapter_has_normal_a_of_deviation_one_over_the_rank_and_zero_b():
    fresh = fresh_adapter({"m": (640, 640)}, 64, 64, generator(0, "fresh"))
    assert fresh.a["m"].std().item() == pytest.approx(1 / 64, rel=0.02)
    assert not fresh.b["m"].any()
    assert fresh.scale == 1


@both
def test_photos_are_resized_as_in_torchvision(domain):
    limits = Prepare(**PAPER[domain]["prepare"]).model_copy(update={"resolution": 48})
    photo = noisy(127, 127)
    resized = np.asarray(fit(photo, limits)[0], int)
    assert np.array_equal(resized, np.asarray(Resize(48, InterpolationMode.BILINEAR)(photo)))
    assert np.abs(resized - np.asarray(fit(photo, Prepare(resolution=48))[0], int)).max() > 8  # the default differs


def noisy(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


# --- selection, tokens, orders, prompts -------------------------------------------------------------------------------


def test_every_order_has_the_ten_objects_and_their_tokens():
    names = [name for name, _, _ in CHOSEN]
    assert dreambooth.choose(dreambooth.read_classes(CLASSES)) == [(name, kind) for name, _, kind in CHOSEN]
    assert list(dreambooth.TOKENS) == [token for _, token, _ in CHOSEN]
    orders = PAPER["objects"]["sequences"]["objects"]
    for seed, permutation in ORDERS.items():
        assert list(orders[str(seed)].values()) == [names[number - 1] for number in permutation]


def test_styles_have_the_same_orders_as_objects():
    orders = PAPER["styles"]["sequences"]["styles"]
    for seed, permutation in ORDERS.items():
        assert list(orders[str(seed)].values()) == [FROM_60[number - 1].lower() for number in permutation]


def test_the_number_of_styles_to_choose_from_is_an_option():
    assert PAPER["styles"]["dataset"]["options"] == {"styles": 60}
    for listed, chosen in ((60, FROM_60), (50, FROM_50)):
        dataset = unlearn_canvas.UnlearnCanvas(root="", styles=listed)
        assert dataset.domains()["styles"] == [style.lower() for style in chosen]


@both
def test_four_orders_and_two_seeds_of_training(domain):
    assert (PAPER[domain]["orders"], PAPER[domain]["seeds"]) == (["0", "5", "10", "42"], [0, 5])


def test_the_prompts_of_an_object(dreambooth_folder):
    concept = dreambooth.DreamBooth(root=dreambooth_folder).concept("objects", "bear_plushie")
    assert concept.training_prompt == "a photo of uwu stuffed animal"
    assert concept.prompts == (
        "a uwu stuffed animal in a purple wizard outfit",
        "a uwu stuffed animal in a police outfit",
        "a uwu stuffed animal wearing a santa hat",
        "a uwu stuffed animal in a jail",
        "a uwu stuffed animal looking into a mirror",
    )
    assert previewed(concept, "objects") == ["a uwu stuffed animal in the jungle"]


def test_the_prompts_of_a_style(tmp_path):
    for folder in (tmp_path / "Blossom_Season" / thing for thing in unlearn_canvas.OBJECTS.split()):
        folder.mkdir(parents=True)
        for number in range(1, 21):
            (folder / f"{number}.jpg").touch()
    concept = unlearn_canvas.UnlearnCanvas(root=str(tmp_path)).concept("styles", "blossom_season")
    assert concept.training_prompt == "blossom season image of flame"
    things = ("a wizard", "a policeman", "a santa hat", "a clock", "a mirror")
    assert concept.prompts == tuple(f"blossom season image of {thing}" for thing in things)
    assert previewed(concept, "styles") == ["blossom season image of pen in the jungle"]


@pytest.fixture
def dreambooth_folder(tmp_path):
    return str(write_subjects(tmp_path))


def previewed(concept, domain: str) -> list[str]:
    """The prompts of the previews while the concept is learned."""
    study = load().model_copy(update={"watch": Watch(prompts=tuple(PAPER[domain]["watch"]["prompts"]))})
    run = Run(TaskSequence("study", domain, "0"), "any", 0)
    return Previews(study, run, "01", SimpleNamespace(), Delta(), facts_of(concept)).prompts


# --- sampling ---------------------------------------------------------------------------------------------------------


@both
def test_sampling(domain):
    sample = Sample(**PAPER[domain]["sample"])
    assert (sample.images, sample.steps, sample.guidance, sample.scheduler, sample.seed) == (8, 50, 5.0, "euler", 42)
    assert sample.noise == "seeded"
    tasks = PAPER[domain]["tasks"]
    pairs = sum(int(task["sees"].removeprefix("data/")) for task in tasks)
    assert (len(tasks), pairs, pairs * 5 * sample.images) == (10, 55, 2200)


class Recorder:
    """A family that records the noise it receives."""

    fingerprint = "recorder"

    def __init__(self) -> None:
        self.noises: list[Tensor] = []

    def shift(self, delta: Delta) -> None:
        self.delta = delta

    def noise_shape(self) -> tuple[int, int, int]:
        return 4, 2, 2

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        return {"text": torch.zeros(len(prompts), 1)}

    def sample(self, prompts, noise: Tensor, *how: object) -> list[Image.Image]:
        self.noises += list(noise)
        return [Image.new("RGB", (1, 1)) for _ in noise]


def sampled(place, monkeypatch, options: Sample, groups: list[list[str]], weight: float = 1.0) -> Recorder:
    """The family, after sampling one model for groups of prompts; `place` has the cache of earlier pictures."""
    monkeypatch.chdir(place)
    family = Recorder()
    state = State(Adapter({"m": torch.ones(1, 2)}, {"m": torch.full((2, 1), weight)}).delta)
    list(sampler.sample(SimpleNamespace(family=family, sample=options), state, groups))  # type: ignore[arg-type]
    return family


def test_every_prompt_task_and_model_is_sampled_from_the_same_noises(tmp_path, monkeypatch):
    options = Sample(images=3, batch=4, steps=1, guidance=5.0, seed=42)
    noises = []
    for value in (0.0, 1.0):  # two models
        family = sampled(tmp_path, monkeypatch, options, [["a", "b"], ["c"]], value)
        noises.append(torch.stack(family.noises).view(3, 3, 4, 2, 2))
    assert torch.equal(noises[0], noises[1])
    assert all(torch.equal(prompt, noises[0][0]) for prompt in noises[0])
    assert not torch.equal(noises[0][0, 0], noises[0][0, 1])


@both
def test_the_noises_of_a_prompt_are_one_draw_of_a_generator_seeded_with_42(domain, tmp_path, monkeypatch):
    options = Sample(**PAPER[domain]["sample"])
    noises = sampled(tmp_path, monkeypatch, options, [["a", "b"]]).noises
    expected = torch.randn((8, 4, 2, 2), generator=torch.Generator().manual_seed(42))
    assert torch.equal(torch.stack(noises), torch.cat([expected, expected]))
    (tmp_path / "hashed").mkdir()
    hashed = options.model_copy(update={"noise": "hashed"})
    assert not torch.equal(torch.stack(sampled(tmp_path / "hashed", monkeypatch, hashed, [["a"]]).noises), expected)


def test_the_base_is_sampled_on_all_concepts_and_once_for_all_orders(tmp_path, monkeypatch):
    monkeypatch.setattr(training_task.artifact, "read", lambda folder, kind: {"concept": {"name": folder.name}})
    study = SimpleNamespace(tasks=[SimpleNamespace(index=f"{i:02d}") for i in range(1, 11)])
    concepts = sampler.sampled_concepts(study, TaskSequence("study", "objects", "5"), None, [])  # type: ignore[arg-type]
    assert {place: concept["name"] for place, concept in concepts.items()} == {i: f"{i:02d}" for i in range(1, 11)}
    monkeypatch.undo()
    options, groups = Sample(images=2, batch=4, steps=1, guidance=5.0, seed=42), [["a", "b"], ["c"]]
    assert len(sampled(tmp_path, monkeypatch, options, groups).noises) == 3 * 2
    assert not sampled(tmp_path, monkeypatch, options, groups[::-1]).noises  # the same concepts in another order


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_a_score_is_the_mean_cosine_of_all_pairs():
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert pairwise(images, references).tolist() == pytest.approx([0.0, 0.8 / 3])
    assert pairwise(images, references).mean().item() == pytest.approx((1 + 0 - 1 + 0.6 + 0.8 - 0.6) / 6)


@both
def test_references_are_the_pictures_in_their_files_unchanged(domain, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, side in zip(paths, (90, 70), strict=True):
        noisy(side, side).save(path)
    pictures = tuple(Picture(path.name, path) for path in paths)
    mug = Concept("mug", "sks", "mug", "a photo of sks mug", ("a sks mug",), ("a mug",), pictures, pictures)
    limits = Prepare(**PAPER[domain]["prepare"]).model_copy(update={"resolution": 32})
    with artifact.publish(tmp_path / "data", "data", {}) as draft:
        draft.note(pictures=develop(mug, limits, draft.path, KnownPhotos()).pictures)
    _, training, references = read_data(tmp_path / "data")
    assert [image.tobytes() for image in references] == [noisy(side, side).tobytes() for side in (90, 70)]
    assert [image.size for image in training] == [(32, 32), (32, 32)]


@both
def test_judges_are_the_papers(domain):
    metrics = PAPER[domain]["score"]["metrics"]
    assert metrics["clip_i"]["architecture"] == "ViT-B-32-quickgelu"
    assert metrics["csd"]["architecture"] == "ViT-L-14-quickgelu"
    dino = Dino(**metrics["dino"])
    assert (dino.architecture, dino.resize, dino.norm_eps) == ("vit_small_patch16_224", 256, 1e-12)


def test_forgetting_is_divided_by_the_number_of_tasks_and_its_maximum_includes_the_last_score():
    assert HAND.average_score() == pytest.approx((0.5 + 0.4 + 0.7) / 3)
    assert HAND.forgetting() == pytest.approx((0.4 + 0.2 + 0.0) / 3)
    assert HAND.forgetting_usual() == pytest.approx((0.4 + 0.2) / 2)


@both
def test_the_deviation_over_runs_is_that_of_a_whole_population(domain):
    assert PAPER[domain]["report"]["over_runs"]
    verdict = judge(results_of(scores := noise(2, 8, 4, 3, 5), orders=4), report())[0]
    rows = dict((row[0], row[1:]) for row in wording.over_runs(verdict)[1:])
    for s, name in enumerate("ab"):
        final = scores[s].mean(-1)[:, -1].mean(-1)  # of each of 4 orders x 2 seeds: mean_t M[t, T]
        deviation = (sum((x - sum(final) / 8) ** 2 for x in final) / 8) ** 0.5
        assert rows[name][0] == f"{sum(final) / 8:.3f} ± {deviation:.3f}"
        lost = [np.mean([m[t:, t].max() - m[-1, t] for t in range(3)]) for m in scores[s].mean(-1)[:, 1:]]
        assert rows[name][1] == f"{np.mean(lost):.3f} ± {np.std(lost, ddof=0):.3f}"


def test_heatmaps_average_over_positions_whichever_concept_is_there():
    scores = noise(1, 2, 4, 3, 5)
    verdict = judge(results_of(scores, [[0, 1, 2], [2, 0, 1]], orders=2), report())[0]
    assert verdict.matrices["a"].scores == pytest.approx(scores[0].mean((0, -1)))


# --- strategies, on one matrix ----------------------------------------------------------------------------------------


def one(a: list[float], b: list[float]) -> Adapter:
    """A rank-1 adapter of a single matrix."""
    return Adapter({"m": torch.tensor([a])}, {"m": torch.tensor(b)[:, None]})


FIRST, SECOND = one([1.0, 2.0], [1.0, -1.0]), one([3.0, 1.0], [0.5, 1.0])


def delta_of(name: str, **options: object) -> list[list[float]]:
    """The delta of the matrix after two tasks with this strategy."""
    strategy = strategies.make(name, options)
    state = strategy.merge(strategy.merge(State(), FIRST, generator("merge")), SECOND, generator("merge"))
    delta = state.delta.module("m")
    assert delta is not None
    return delta.tolist()


@pytest.mark.parametrize(
    ("name", "delta"),
    [
        ("naive", [[1.5, 0.5], [3.0, 1.0]]),  # the last adapter alone
        ("merge_init", [[2.5, 2.5], [2.0, -1.0]]),  # [[1, 2], [-1, -2]] + [[1.5, .5], [3, 1]]
        ("ortho_init", [[6.0, 4.5], [0.0, 0.0]]),  # (b1 + b2)(a1 + a2)
        ("magmax", [[1.5, 2.0], [3.0, -2.0]]),  # entry by entry the larger one
    ],
)
def test_a_strategy_is_as_published(name, delta):
    assert delta_of(name) == delta


def test_magmax_takes_the_last_task_in_a_tie():
    strategy = strategies.make("magmax")
    state = strategy.merge(
        strategy.merge(State(), one([1.0], [2.0]), generator("merge")), one([1.0], [-2.0]), generator("merge")
    )
    assert state.delta.module("m").tolist() == [[-2.0]]
