"""The verdict on two ways of sampling the same study."""

import random
import statistics

import pytest

from stages.files import tables
from tests.bench.acceptance import Key, judge, scores


def sampled(shift: float = 0.0, noise: float = 0.0, images: int = 400, seeds: int = 2, between: float = 0.05):
    """Scores of three states, exact and faster; seeds differ by `between`."""
    rng, run = random.Random(0), ("objects", "0", "some")
    exact = {
        (*run, str(seed), f"{state:02d}", "1", "0", str(number)): 0.5 + seed * between + rng.gauss(0, 0.1)
        for seed in range(seeds)
        for state in (1, 2, 3)
        for number in range(images)
    }
    return exact, {key: value + shift + rng.gauss(0, noise) for key, value in exact.items()}


def test_rounding_is_accepted_and_a_shift_is_not():
    assert judge("dino", *sampled(noise=0.005)).word == "unchanged"
    assert judge("dino", *sampled(shift=0.003)).word == "CHANGED"
    assert judge("dino", *sampled(shift=0.0015)).word == "unchanged"


def test_a_shift_must_also_be_small_compared_with_the_seeds():
    assert judge("dino", *sampled(shift=0.0015, between=0.001)).word == "CHANGED"


def test_with_one_seed_the_verdict_is_unknown():
    verdict = judge("dino", *sampled(seeds=1))
    assert verdict.between_seeds is None
    assert verdict.word.startswith("unknown")
    assert judge("dino", *sampled(shift=0.003, seeds=1)).word == "CHANGED"


def test_too_few_pictures_give_no_verdict():
    assert judge("dino", *sampled(images=300)).word == "too few to tell"
    exact, _ = sampled(seeds=1)
    two = {key: value for key, value in exact.items() if key[4] != "03"}
    assert judge("dino", two, two).word == "too few to tell"


def test_opposite_shifts_of_states_do_not_cancel():
    exact, _ = sampled()
    faster = {key: value + {"01": 0.05, "02": -0.05}.get(key[4], 0.0) for key, value in exact.items()}
    assert abs(statistics.fmean(faster[key] - exact[key] for key in exact)) < 1e-9
    assert judge("dino", exact, faster).word == "CHANGED"


def paper(rng: random.Random) -> dict[Key, float]:
    """Scores like those of the paper's study: after task t 40 pictures of each of t concepts."""
    return {
        ("objects", order, "some", seed, f"{after:02d}", str(task), str(prompt), str(noise)): 0.5 + rng.gauss(0, 0.1)
        for order in ("0", "5")
        for seed in ("0", "5")
        for after in range(1, 11)
        for task in range(1, after + 1)
        for prompt in range(5)
        for noise in range(8)
    }


def test_the_papers_study_has_enough_pictures_in_its_last_states():
    exact = paper(random.Random(0))
    verdict = judge("dino", exact, dict(exact))
    assert (len(verdict.shifts), verdict.skipped) == (4, 36)
    assert verdict.word == "unchanged"
    later = {key: value + 0.003 * (key[4] == "10") for key, value in exact.items()}
    assert judge("dino", exact, later).word == "CHANGED"


def test_unpaired_pictures_are_refused():
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
