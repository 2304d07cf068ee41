"""A study that starts from an imported adapter: imported, checked, and used by every strategy's first task."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta, fresh_adapter, widened
from stages.adapters.storage import delta_fingerprint, load_adapter
from stages.core import params
from stages.core.runs import runs, sequences
from stages.core.states import initial_adapter, initial_state, rebuilt_state, state_after
from stages.core.strategy import strategies
from stages.files import artifact, tensors
from stages.merge import merge
from stages.prepare import prepare
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.seeds import generator
from stages.sample import sample
from stages.start import start
from stages.tools.exchange.exporting import pack
from stages.tools.forecasting.workload import count
from stages.tools.import_lora import import_lora
from stages.train import train
from tests.support.workspace import FEW_CAPTIONS, change, workspace

FOLDER = "adapters/elsewhere"


def random_adapter(shapes, rank: int = 4, alpha: float = 6.0) -> Adapter:
    fresh = fresh_adapter(shapes, rank, alpha, generator("elsewhere"))
    b = {name: 0.1 * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def relative_error(delta: Delta, exact: Delta) -> float:
    errors = [float(matrix.square().sum()) for _, matrix in (delta - exact).matrices()]
    return float((sum(errors) / sum(float(matrix.square().sum()) for _, matrix in exact.matrices())) ** 0.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A study of one task and all strategies, and an adapter imported from a file in diffusers format."""
    folder = workspace(
        tmp_path_factory.mktemp("start") / "work",
        1,
        strategies=sorted(strategies.classes),
        strategy=FEW_CAPTIONS,
        train={"steps": 2},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plain = params.load()
        packed = pack(
            random_adapter(plain.family.shapes()).delta, "diffusers", torch.float32, None, plain.family.module_names()
        )
        tensors.write(Path("lora.safetensors"), packed.tensors, packed.metadata)
        import_lora(plain, None, Namespace(file=Path("lora.safetensors"), to=Path(FOLDER), alpha=None))
        yield folder, plain


def with_adapter(folder: Path, **options):
    defaults = {"adapter": FOLDER, "adapter_revision": artifact.folder_digest(Path(FOLDER))}
    tree = params.load()
    text = (folder / "params.yaml").read_text("utf-8")
    try:
        change(folder, base={"options": tree.base.options | defaults | options.pop("base", {})}, **options)
        return params.load()
    finally:
        (folder / "params.yaml").write_text(text, "utf-8")


def test_every_strategy_starts_from_it(place):
    folder, plain = place
    study, elsewhere = with_adapter(folder), random_adapter(plain.family.shapes()).delta
    assert study.family.fingerprint == plain.family.fingerprint
    prepare(study, sequences(study)[0], Namespace(task="01"))
    for run in runs(study):
        start(study, run, Namespace())
        before = state_after(study, run, "00")
        assert relative_error(before.delta, elsewhere) < 1e-6
        assert artifact.read(run.at("00") / "state", "state")["begun_with"] == study.family.adapter_revision
        train(study, run, Namespace(task="01"))
        merge(study, run, Namespace(task="01"))
        manifest = artifact.read(run.at("01") / "adapter", "adapter")
        adapter = load_adapter(run.at("01") / "adapter/adapter.safetensors", manifest["scale"], study.family.shapes())
        trained = (study.make_strategy(run.strategy).frozen(before) or Delta()) + adapter.delta
        if "start" in study.make_strategy(run.strategy).laws:
            assert 0 < relative_error(trained, elsewhere) < 0.5  # two steps away from the start
        after = state_after(study, run, "01")
        assert delta_fingerprint(after.delta) == delta_fingerprint(rebuilt_state(study, run, "01").delta)
    placed = [path for run in runs(study) for path in run.at("00").parent.rglob("adapter*.safetensors")]
    work = count(study)
    assert work.trained == len(runs(study))
    assert work.placed_adapters == len(placed)
    assert work.kept_adapters == len({artifact.sha256(path) for path in placed})


def test_the_pictures_before_the_first_task_depend_on_it(place):
    folder, plain = place
    study, sequence = with_adapter(folder), sequences(plain)[0]
    prepare(plain, sequence, Namespace(task="01"))
    pictures = []
    for params_ in (plain, study):
        sample(params_, sequence, Namespace(task=None))
        pictures.append({path.name: path.read_bytes() for path in (sequence.base / "images").rglob("*.png")})
    assert pictures[0].keys() == pictures[1].keys()
    assert all(pictures[0][name] != pictures[1][name] for name in pictures[0])


def test_without_one_a_run_starts_from_the_base(place):
    _, plain = place
    assert initial_adapter(plain) is None
    assert not initial_state(plain, runs(plain)[0]).delta.modules
    assert initial_state(plain, runs(plain)[0]).adapter is None


@pytest.mark.parametrize(
    ("options", "fault", "message"),
    [
        ({"base": {"adapter_revision": "0" * 64}}, InputFault, "its revision is .* pins 0000"),
        ({"base": {"adapter_revision": ""}}, InputFault, "pins none"),
        ({"base": {"adapter": "adapters/none"}}, InputFault, "adapters/none"),
        ({"train": {"rank": 2}}, ConfigFault, "train.rank: 2 is less than the rank of adapters/elsewhere, 4"),
    ],
)
def test_an_unsuitable_adapter_is_refused(place, options, fault, message):
    with pytest.raises(fault, match=message):
        initial_state(study := with_adapter(place[0], **options), runs(study)[0])


def test_widening_does_not_change_the_delta():
    shapes = {"one": (6, 8), "two": (5, 7)}
    small, fresh = random_adapter(shapes, 2, 2.0), fresh_adapter(shapes, 4, 8.0, generator("fresh"))
    wide = widened(small, fresh)
    assert wide.scale == fresh.scale
    for name in shapes:
        assert torch.allclose(wide.module(name), small.module(name), atol=1e-6)
        assert torch.equal(wide.a[name][2:], fresh.a[name][2:])
        assert not wide.b[name][:, 2:].any()
    same = fresh_adapter(shapes, 2, 2.0, generator("fresh"))
    assert all(torch.equal(widened(small, same).b[name], small.b[name]) for name in shapes)
