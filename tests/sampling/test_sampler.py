"""Which pictures are sampled, from what and when; and sampling without enough memory for a batch."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.adapters.algebra import Delta
from stages.adapters.state import State
from stages.core.params import Sample
from stages.core.spare import spare
from stages.files.artifact import Draft
from stages.files.pictures import open_png
from stages.runtime.faults import MachineFault
from stages.runtime.seeds import generator
from stages.sample import write
from stages.sampling.sampler import sample

TASKS = {"01": {"prompts": ["a", "b"]}, "02": {"prompts": ["c"]}}


class Crowded:
    """A family whose device has memory for `room` pictures at a time; its pictures show their noise."""

    fingerprint = "crowded"

    def __init__(self, room: int) -> None:
        self.room = room
        self.batches: list[int] = []

    def shift(self, delta: object) -> None:
        pass

    def noise_shape(self) -> tuple[int, int, int]:
        return 4, 2, 2

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        return {"text": torch.zeros(len(prompts), 1)}

    def sample(self, rows, noise, steps, guidance, scheduler, batch) -> list[Image.Image]:
        self.batches.append(batch)
        if batch > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [Image.fromarray((one[:3] * 40 + 128).byte().permute(1, 2, 0).numpy()) for one in noise]


def pictures(place, monkeypatch, room: int, **facts: int):
    """The manifest's facts after sampling, the files' bytes, and the batch sizes that were tried; `facts`: before."""
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    family = Crowded(room)
    options = Sample(images=4, batch=8, steps=1, guidance=3.0, seed=42)
    draft = Draft(place, facts)
    write(SimpleNamespace(family=family, sample=options), State(), TASKS, place / "images", draft)
    files = {str(p.relative_to(place)): p.read_bytes() for p in sorted((place / "images").rglob("*.png"))}
    return draft.facts, files, family.batches


def test_the_batch_is_halved_and_the_manifest_records_it(tmp_path, monkeypatch):
    facts, whole, batches = pictures(tmp_path / "large", monkeypatch, 8)
    assert (facts, batches) == ({}, [8, 4])
    facts, files, batches = pictures(tmp_path / "small", monkeypatch, 3)
    assert (facts, batches) == ({"micro_batch": 2}, [8, 4, 2, 2])
    assert files == whole
    again, files, batches = pictures(tmp_path / "small" / "again", monkeypatch, 2)
    assert (again, files) == (facts, whole)


class Telling(Crowded):
    """Its pictures show their prompt's length, the mean of their noise and the size of the delta."""

    def __init__(self, fingerprint: str = "telling") -> None:
        super().__init__(8)
        self.fingerprint, self.size = fingerprint, 0.0

    def shift(self, delta: Delta) -> None:
        self.size = sum(float(value.sum()) for _, value in delta.matrices())

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        return {"text": torch.tensor([[float(len(prompt))] for prompt in prompts])}

    def sample(self, rows, noise, steps, guidance, scheduler, batch) -> list[Image.Image]:
        self.batches.append(batch)
        shown = zip(rows["text"][:, 0].tolist(), noise, strict=True)
        return [Image.new("RGB", (1, 1), (int(n), int(100 + 50 * x.mean()), int(self.size))) for n, x in shown]


def shown(groups, family: Telling | None = None, delta: float = 0.0, **options) -> list[tuple[int, int, int]]:
    """The pixel of every picture, in their order."""
    sampled = Sample(**{"images": 3, "batch": 8, "steps": 1, "guidance": 3.0, "seed": 42, **options})
    dense = {"one": torch.full((1, 1), delta)} if delta else {}
    study = SimpleNamespace(family=family or Telling(), sample=sampled)
    return [
        open_png(file).getpixel((0, 0)) for files in sample(study, State(Delta(dense=dense)), groups) for file in files
    ]


def test_every_prompt_is_sampled_with_every_noise_all_noises_of_the_first_prompt_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = torch.randn((3, 4, 2, 2), generator=generator(42, "sample")).mean((1, 2, 3))
    means = [int(100 + 50 * x) for x in drawn]
    assert len({*means}) == 3
    found = shown([["a", "bbb"], ["cc"]], delta=7.0)
    assert found == [(length, mean, 7) for length in (1, 3, 2) for mean in means]
    seeded = torch.randn((3, 4, 2, 2), generator=torch.Generator().manual_seed(42)).mean((1, 2, 3))
    assert [pixel[1] for pixel in shown([["a"]], noise="seeded")] == [int(100 + 50 * x) for x in seeded]


def test_pictures_are_cached_by_all_that_makes_them_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = Telling()
    assert shown([["a", "bbb"]], first) == shown([["a", "bbb"]], again := Telling())
    assert (first.batches, again.batches) == ([6], [])
    for groups, options in (
        ([["bbb", "a"]], {}),
        ([["a", "bbb"]], {"delta": 1.0}),
        ([["a", "bbb"]], {"delta": 2.0}),
        ([["a", "bbb"]], {"seed": 43}),
        ([["a", "bbb"]], {"guidance": 4.0}),
        ([["a", "bbb"]], {"family": Telling("another base")}),
    ):
        family = options.pop("family", None) or Telling()
        shown(groups, family, **options)
        assert family.batches == [6], options


def test_what_is_kept_for_the_next_training_is_freed_first(tmp_path, monkeypatch):
    freed, sample = list[str](), Crowded.sample

    def crowded(self, *args) -> list[Image.Image]:
        self.room = 8 if freed else 3
        return sample(self, *args)

    monkeypatch.setattr(Crowded, "sample", crowded)
    spare.put("graphs", lambda: freed.append("graphs"))
    facts, _, batches = pictures(tmp_path / "work", monkeypatch, 3)
    assert (facts, batches, freed) == ({}, [8, 8, 4], ["graphs"])


def test_a_batch_halved_before_a_kill_is_recorded_too(tmp_path, monkeypatch):
    facts, _, _ = pictures(tmp_path / "work", monkeypatch, 2)
    shutil.rmtree(tmp_path / "work/images")
    again, _, batches = pictures(tmp_path / "work", monkeypatch, 8)
    assert (again, batches) == (facts, [])


def test_the_smallest_batch_is_recorded(tmp_path, monkeypatch):
    assert pictures(tmp_path / "work", monkeypatch, 3, micro_batch=1)[0] == {"micro_batch": 1}
    assert pictures(tmp_path / "more", monkeypatch, 3, micro_batch=4)[0] == {"micro_batch": 2}


def test_no_memory_for_one_picture_is_a_machine_fault(tmp_path, monkeypatch):
    with pytest.raises(MachineFault, match="one picture at a time"):
        pictures(tmp_path / "work", monkeypatch, 0)
