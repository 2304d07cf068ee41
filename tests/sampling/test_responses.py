"""What models predict for the same noised pictures."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.core import params
from stages.core.family import Row
from stages.core.runs import RESPONSES, sequences
from stages.files import artifact
from stages.files.tensors import load_tensors
from stages.prepare import prepare
from stages.runtime.faults import ConfigFault, MachineFault
from stages.runtime.seeds import generator
from stages.sample import sample
from stages.sampling.responses import predictions
from tests.support.models.tiny_dit import TinyDit
from tests.support.workspace import change, tasks, workspace


def drawn(family, seed: int, scale: float = 0.3) -> Adapter:
    g, shapes = generator("drawn", seed), family.shapes()
    a = {n: torch.randn(2, i, generator=g) for n, (_, i) in shapes.items()}
    return Adapter(a, {n: torch.randn(o, 2, generator=g) for n, (o, _) in shapes.items()}, scale)


def shown(family, count: int = 2):
    pictures = [family.encode_images([Image.effect_noise((8, 8), 60 + k).convert("RGB")]) for k in range(count)]
    return pictures, family.encode_prompts([f"a {k}" for k in range(count)])


class Sized:
    """Predicts a picture itself, and has memory for so many at a time."""

    shapes = staticmethod(lambda: {"m": (2, 2)})

    def __init__(self, room: int = 8) -> None:
        self.room, self.tried = room, list[int]()

    def learner(self, frozen, adapter):
        held = SimpleNamespace()
        held.prepare = lambda images, prompts: setattr(held, "images", images)
        held.inputs = lambda rows: {"x": torch.cat([held.images[row.image]["x"] for row in rows])}
        held.predict = self._predict
        return held

    def _predict(self, inputs):
        self.tried.append(len(inputs["x"]))
        if len(inputs["x"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs["x"]


def test_they_are_what_base_plus_state_predicts_and_depend_on_nothing_before():
    family = TinyDit()
    images, prompts = shown(family)
    rows = {"01": [Row(0, 0, 5, 1.0), Row(1, 0, 6, 1.0)], "02": [Row(1, 1, 7, 1.0)]}
    state = State(drawn(family, 1).delta)
    found, _ = predictions(family, state, images, prompts, rows, 8)
    assert {key: len(value) for key, value in found.items()} == {"01": 2, "02": 1}
    base, _ = predictions(family, State(), images, prompts, rows, 8)
    again, _ = predictions(family, state, images, prompts, rows, 8)
    assert all(torch.equal(found[key], again[key]) for key in rows)
    assert not torch.allclose(found["01"], base["01"])
    # the same model, with its delta as the adapter in training
    learner = family.learner(None, drawn(family, 1))
    learner.prepare(images, prompts)
    trained = learner.predict(learner.inputs(rows["01"])).flatten(1)
    assert (trained - found["01"]).norm() < 1e-4 * (found["01"] - base["01"]).norm()  # two orders of the same sum


def test_a_loss_is_the_error_of_what_is_predicted():
    family = params.load().family
    learner = family.learner(None, drawn(family, 2, 0.01))
    picture = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    learner.prepare([family.encode_images([picture])], family.encode_prompts(["a photo of a star"]))
    inputs = learner.inputs([Row(0, 0, 3, 1.0), Row(0, 0, 4, 1.0)])
    error = (learner.predict(inputs) - inputs["wanted"]).square().mean((1, 2, 3)).sum()
    assert float(learner.loss(inputs).detach()) == pytest.approx(float(error), rel=1e-5)


def test_pictures_of_several_sizes_are_predicted_each_by_itself():
    images = [{"x": torch.full((1, 1, side, side), float(side))} for side in (2, 3)]
    rows = {"01": [Row(k, 0, 0, 1.0) for k in (0, 1, 0)]}
    found, _ = predictions(Sized(), State(), images, {}, rows, 8)
    assert found["01"].sum(1).tolist() == [8.0, 27.0, 8.0]


@pytest.mark.parametrize(
    ("batch", "room", "tried", "size"),
    [
        (20, 20, [8, 8], 20),
        (8, 8, [8, 8], 8),
        (3, 8, [3, 3, 2, 3, 3, 2], 3),
        (20, 2, [8, 4, 2, 2, 2, 2, 2, 2, 2, 2], 2),
    ],
)
def test_no_more_rows_at_a_time_than_pictures_are_sampled_and_fewer_where_memory_is_short(batch, room, tried, size):
    family = Sized(room)
    images = [{"x": torch.full((1, 1, 2, 2), float(k))} for k in range(8)]
    rows = {key: [Row(k, 0, 0, 1.0) for k in range(8)] for key in ("01", "02")}
    found, fitted = predictions(family, State(), images, {}, rows, batch)
    assert (family.tried, fitted) == (tried, size)
    assert all(value.sum(1).tolist() == [4.0 * k for k in range(8)] for value in found.values())


def test_no_memory_for_one_row_is_reported():
    with pytest.raises(MachineFault, match="out of memory with one picture at a time"):
        predictions(Sized(0), State(), [{"x": torch.ones(1, 1, 2, 2)}], {}, {"01": [Row(0, 0, 0, 1.0)]}, 8)


def test_a_model_that_sees_other_pictures_is_refused(tmp_path):
    folder = workspace(tmp_path / "work", sample={"responses": 2})
    with pytest.raises(ConfigFault, match=r"sample\.responses: every model must see the same pictures\."):
        params.load(folder / "params.yaml")


@pytest.mark.slow
def test_the_sample_stage_writes_them_beside_its_pictures(tmp_path, monkeypatch):
    folder = workspace(tmp_path / "work", 2, sample={"responses": 3})
    change(folder, tasks=[task | {"sees": "data"} for task in tasks(2)["tasks"]])
    monkeypatch.chdir(folder)
    study = params.load()
    (sequence,) = sequences(study)
    for task in study.tasks:
        prepare(study, sequence, SimpleNamespace(task=task.index))
    sample(study, sequence, SimpleNamespace(task=None))
    assert RESPONSES in artifact.read(sequence.base / "images", "images")["files"]
    found = load_tensors(sequence.base / "images" / RESPONSES)
    assert {key: value.shape[0] for key, value in found.items()} == {"01": 3, "02": 3}
    assert len({value.shape[1] for value in found.values()}) == 1
