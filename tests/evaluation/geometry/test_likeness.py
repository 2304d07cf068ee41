"""Sets of similar and diverse concepts."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from stages.evaluation.geometry import likeness as module
from stages.evaluation.geometry.likeness import choose, likeness, mean_likeness

seeds, sizes = draw.integers(0, 2**20), draw.integers(2, 7)


def measured(seed: int, concepts: int = 8, pictures: int = 3) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(concepts, pictures, 5))
    return likeness(list(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)))


def test_likeness_is_the_mean_cosine_over_all_pairs_of_pictures():
    rng = np.random.default_rng(3)
    vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rng.normal(size=(n, 4)) for n in (2, 5, 3))]
    alike = likeness(vectors)
    for i, j in np.ndindex(3, 3):
        assert alike[i, j] == pytest.approx(np.mean([a @ b for a in vectors[i] for b in vectors[j]]))


def test_the_mean_likeness_is_over_pairs_of_different_concepts():
    alike = np.array([[0.9, 0.1, 0.2], [0.1, 0.3, 0.4], [0.2, 0.4, 0.5]])
    assert mean_likeness(alike, [0, 2, 1]) == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert mean_likeness(alike, [1, 2]) == pytest.approx(0.4)


@settings(max_examples=25, deadline=None)
@given(seeds, sizes)
def test_a_set_grows_by_the_concept_that_is_most_or_least_like_those_in_it(seed, count):
    alike = measured(seed)
    for sign, best in ((1.0, max), (-1.0, min)):
        some = [seed % 8]
        while len(some) < count:
            others = [k for k in range(8) if k not in some]
            some.append(best(others, key=lambda k: np.mean([alike[k, one] for one in some])))
        assert module._grown(alike, seed % 8, count, sign) == some


@settings(max_examples=25, deadline=None)
@given(seeds, sizes)
def test_no_other_set_is_more_alike_or_more_diverse(seed, count):
    alike = measured(seed)
    every = [mean_likeness(alike, one) for one in combinations(range(8), count)]
    assert mean_likeness(alike, choose(alike, count, most=True)) == pytest.approx(max(every))
    assert mean_likeness(alike, choose(alike, count, most=False)) == pytest.approx(min(every))


@settings(max_examples=25, deadline=None)
@given(seeds, sizes)
def test_a_grown_set_starts_anywhere_and_no_start_gives_a_better_one(seed, count):
    alike = measured(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXACT", 0)
        for most in (True, False):
            found = choose(alike, count, most)
            assert len({*found}) == count
            sign = 1 if most else -1
            others = [module._grown(alike, first, count, sign) for first in range(8)]
            assert sign * mean_likeness(alike, found) == max(sign * mean_likeness(alike, one) for one in others)
            assert choose(alike, count, most) == found


def test_the_order_of_the_concepts_does_not_matter():
    alike, turned = measured(1), np.roll(np.arange(8), 3)
    found = {int(turned[k]) for k in choose(alike[np.ix_(turned, turned)], 4, most=True)}
    assert found == {*choose(alike, 4, most=True)}


def test_ties_go_to_the_earlier_concepts():
    assert choose(np.ones((6, 6)), 3, most=True) == choose(np.ones((6, 6)), 3, most=False) == [0, 1, 2]
