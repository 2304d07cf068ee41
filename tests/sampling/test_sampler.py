"""Sampling without enough memory for a batch."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.adapters.state import State
from stages.core.params import Sample
from stages.core.spare import spare
from stages.files.artifact import Draft
from stages.runtime.faults import MachineFault
from stages.sample import write

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
