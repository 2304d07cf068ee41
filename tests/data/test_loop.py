"""The recipes' training loop: limited by time, resumable, with files small enough for a code host."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data.world.recipes import checkpoint, loop
from data.world.recipes.loop import Run, fit, share_of_rate
from data.world.recipes.optimiser import orthogonalise

TARGET = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "CACHE", tmp_path)


def learn(seconds: float) -> tuple[dict[str, Tensor], int]:
    torch.manual_seed(0)
    model, calls = nn.Linear(2, 2), []

    def loss(g: torch.Generator) -> Tensor:
        calls.append(0)
        x = torch.randn((16, 2), generator=g)
        return (model(x) - x @ TARGET.T).square().mean()

    return fit("linear", model, loss, (0.05, 0.01), Run(seconds, save_every=0.05), 0.9), len(calls)


def test_a_training_learns_and_keeps_its_average(tmp_path: Path):
    average, _ = learn(1.5)
    assert torch.allclose(average["weight"], TARGET, atol=0.1)
    kept = checkpoint.average(tmp_path / "linear")
    assert all(torch.equal(kept[k], average[k]) for k in average)


def test_it_goes_on_where_it_was_and_not_beyond_its_seconds():
    learn(0.3)
    _, more = learn(0.6)
    average, none = learn(0.6)
    assert more > 0
    assert none == 0
    assert average["weight"].shape == TARGET.shape


def test_the_time_it_is_halted_does_not_count(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, *range(1000, 10**9, 1000)])
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    _, steps = learn(3 * loop.LONGEST_STEP)
    assert steps == 3


def test_the_rate_rises_stays_and_falls_to_nothing():
    assert share_of_rate(0, 0.0) < 0.02
    assert share_of_rate(500, 0.5) == 1
    assert share_of_rate(500, 1.0) == 0


def test_no_file_of_a_checkpoint_is_larger_than_it_may_be(tmp_path: Path):
    model = nn.ModuleList(nn.Linear(1500, 1500) for _ in range(3))
    checkpoint.save(tmp_path / "large", model, dict(model.state_dict()), [], 1, 1.0)
    files = list((tmp_path / "large").iterdir())
    assert len(files) > 1
    assert max(f.stat().st_size for f in files) < 16_000_000
    assert len(checkpoint.read(tmp_path / "large")) == 2 * len(model.state_dict()) + 1


def test_orthogonalised_singular_values_are_near_one():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4
