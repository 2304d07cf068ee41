import random

import pytest

from stages.core import tables
from tests.bench.acceptance import judge, scores


def sampled(shift: float = 0.0, noise: float = 0.0, images: int = 400, seeds: int = 2, between: float = 0.05):
    """Scores of three states in two ways, whose seeds differ by `between`: (exact, faster)."""
    rng, run = random.Random(0), ("objects", "0", "some")
    exact = {
        (*run, str(seed), f"{state:02d}", "1", "0", str(number)): 0.5 + seed * between + rng.gauss(0, 0.1)
        for seed in range(seeds)
        for state in (1, 2, 3)
        for number in range(images)
    }
    return exact, {key: value + shift + rng.gauss(0, noise) for key, value in exact.items()}


def test_roundings_are_accepted_and_shifts_are_not():
    assert judge("dino", *sampled(noise=0.005)).unchanged
    assert not judge("dino", *sampled(shift=0.003)).unchanged
    assert judge("dino", *sampled(shift=0.0015)).unchanged


def test_a_shift_has_to_be_small_beside_the_seeds_too():
    assert not judge("dino", *sampled(shift=0.0015, between=0.001)).unchanged
    assert judge("dino", *sampled(shift=0.0015, seeds=1)).between_seeds is None


def test_few_pictures_say_nothing():
    found = judge("dino", *sampled(images=300))
    assert not found.enough
    assert not found.unchanged


def test_pictures_that_have_no_partner_are_refused():
    exact, faster = sampled(images=2)
    faster.popitem()
    with pytest.raises(ValueError, match="1 pictures"):
        judge("dino", exact, faster)


def test_scores_are_read_from_the_runs_of_a_study(tmp_path):
    folder = tmp_path / "objects" / "0" / "some" / "5" / "01" / "scores"
    folder.mkdir(parents=True)
    row = {
        "after": [1],
        "task": [1],
        "concept": ["c"],
        "prompt": [2],
        "noise": [3],
        "metric": ["dino"],
        "score": [0.25],
    }
    tables.write(folder / "scores.parquet", tables.SCORES, row)
    assert scores(tmp_path) == {"dino": {("objects", "0", "some", "5", "01", "1", "2", "3"): 0.25}}
