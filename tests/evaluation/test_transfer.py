"""The formulas over R: by hand on a 3 x 3 example, and as properties on any matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.evaluation.transfer import PictureTransfer, Transfer, known_mean

N = np.nan
HAND = Transfer(
    np.array(
        [
            [0.1, 0.2, 0.3],  # the base
            [0.8, N, N],
            [0.9, 0.6, N],
            [0.5, 0.4, 0.7],
        ]
    )
)
ALL = [
    "average_score",
    "earlier_score",
    "base_score",
    "base_earlier",
    "plasticity",
    "forgetting",
    "forgetting_usual",
    "backward_transfer",
    "gain",
    "gain_earlier",
    "gain_when_learned",
]
DIFFERENCES = {"forgetting", "forgetting_usual", "backward_transfer", "gain", "gain_earlier", "gain_when_learned"}


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("average_score", (0.5 + 0.4 + 0.7) / 3),
        ("earlier_score", (0.5 + 0.4) / 2),
        ("base_score", 0.2),
        ("base_earlier", 0.15),
        ("plasticity", (0.8 + 0.6 + 0.7) / 3),
        ("forgetting", ((0.9 - 0.5) + (0.6 - 0.4) + 0) / 3),
        ("forgetting_usual", ((0.9 - 0.5) + (0.6 - 0.4)) / 2),
        ("backward_transfer", ((0.5 - 0.8) + (0.4 - 0.6)) / 2),
        ("gain", (0.4 + 0.2 + 0.4) / 3),
        ("gain_earlier", (0.4 + 0.2) / 2),
        ("gain_when_learned", (0.7 + 0.4 + 0.4) / 3),
    ],
)
def test_by_hand(measure: str, expected: float) -> None:
    assert getattr(HAND, measure)() == pytest.approx(expected)


def test_curves_by_hand() -> None:
    assert [HAND.so_far(after) for after in (1, 2, 3)] == pytest.approx([0.8, 0.75, 1.6 / 3])
    assert HAND.base_so_far() == pytest.approx([0.1, 0.15, 0.2])
    assert [HAND.gain_so_far(after) for after in (1, 2, 3)] == pytest.approx([0.7, (0.8 + 0.4) / 2, 1 / 3])


def test_rows_are_after_and_columns_are_tasks() -> None:
    assert HAND.at(2, 1) == 0.9
    assert HAND.at(0, 3) == 0.3
    assert list(HAND.cells()) == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]
    with pytest.raises(IndexError, match=r"R\[1, 0\]"):
        HAND.at(1, 0)


def test_one_task_has_nothing_to_forget() -> None:
    one = Transfer(np.array([[0.1], [0.7]]))
    assert one.forgetting() == 0
    assert one.gain() == pytest.approx(0.6)
    for measure in ("forgetting_usual", "backward_transfer", "earlier_score", "base_earlier", "gain_earlier"):
        assert np.isnan(getattr(one, measure)()), measure


def test_gap_is_named() -> None:
    with pytest.raises(ValueError, match=r"R\[3, 2\]"):
        Transfer(np.where(HAND.scores == 0.4, N, HAND.scores)).average_score()
    with pytest.raises(ValueError, match=r"R\[2, 1\]"):
        Transfer(np.where(HAND.scores == 0.9, N, HAND.scores)).forgetting()
    with pytest.raises(ValueError, match=r"R\[0, 1\]"):
        Transfer(np.where(HAND.scores == 0.1, N, HAND.scores)).gain()
    with pytest.raises(ValueError, match=r"R\[2, 2\]"):
        Transfer(np.where(HAND.scores == 0.6, N, HAND.scores)).plasticity()
    with pytest.raises(ValueError, match=r"R\[8, 1\].* and 3 more"):
        Transfer(np.full((9, 8), N)).average_score()
    stacked = Transfer(np.stack([HAND.scores, np.where(HAND.scores == 0.4, N, HAND.scores)]))
    with pytest.raises(ValueError, match=r"R\[3, 2\]"):
        stacked.average_score()
    assert (3, 2) not in stacked.cells()
    assert (3, 1) in stacked.cells()


def test_a_gap_that_is_not_needed_does_not_matter() -> None:
    without = Transfer(np.where(HAND.scores == 0.9, N, HAND.scores))
    assert without.average_score() == HAND.average_score()


@pytest.mark.parametrize("shape", [(3, 3), (4,), (1, 0), (2, 3)])
def test_shape_is_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="T \\+ 1"):
        Transfer(np.zeros(shape))


@st.composite
def matrices(draw: st.DrawFn, least: int = 1) -> Transfer:
    tasks = draw(st.integers(least, 6))
    scores = draw(arrays(np.float64, (tasks + 1, tasks), elements=st.floats(-1, 1, width=32)))
    future = np.triu(np.ones((tasks, tasks), bool), 1)
    scores[1:][future] = N if draw(st.booleans()) else 0.5
    return Transfer(scores)


@given(matrices())
def test_forgetting_is_never_negative(r: Transfer) -> None:
    assert r.forgetting() >= 0


@given(matrices(2))
def test_the_two_forms_of_forgetting_differ_by_their_divisor(r: Transfer) -> None:
    assert r.forgetting_usual() == pytest.approx(r.forgetting() * r.tasks / (r.tasks - 1))


@given(matrices(2))
def test_forgetting_is_at_least_the_loss_since_learning(r: Transfer) -> None:
    assert r.forgetting_usual() >= -r.backward_transfer() - 1e-12


@given(matrices(2))
def test_end_is_learning_plus_backward_transfer(r: Transfer) -> None:
    assert r.earlier_score() - np.diagonal(r.scores[1:])[:-1].mean() == pytest.approx(r.backward_transfer(), abs=1e-12)
    assert r.average_score() - r.base_score() == pytest.approx(r.gain(), abs=1e-12)
    assert r.plasticity() - r.base_score() == pytest.approx(r.gain_when_learned(), abs=1e-12)


@given(matrices(2))
def test_what_tasks_did_to_one_another_adds_up_to_backward_transfer(r: Transfer) -> None:
    change = r.change()
    assert np.isnan(change[..., *np.triu_indices(r.tasks)]).all()
    assert np.nansum(change) / (r.tasks - 1) == pytest.approx(float(r.backward_transfer()), abs=1e-9)


@given(matrices(2), st.floats(-1, 1))
def test_a_constant_moves_scores_and_no_difference(r: Transfer, constant: float) -> None:
    moved = Transfer(r.scores + constant)
    for measure in ALL:
        shift = 0 if measure in DIFFERENCES else constant
        assert getattr(moved, measure)() == pytest.approx(getattr(r, measure)() + shift, abs=1e-9), measure


@given(matrices())
def test_future_tasks_are_read_by_no_measure(r: Transfer) -> None:
    other = r.scores.copy()
    other[1:][np.triu(np.ones((r.tasks, r.tasks), bool), 1)] = 99.0
    for measure in ALL:
        assert getattr(Transfer(other), measure)() == pytest.approx(getattr(r, measure)(), nan_ok=True), measure


@given(matrices(2))
def test_after_comes_before_task(r: Transfer) -> None:
    """A matrix with the row's number in every cell shows for which of the two indices a formula uses the end."""
    rows = Transfer(np.repeat(np.arange(r.tasks + 1.0)[:, None], r.tasks, 1))
    assert rows.average_score() == r.tasks
    assert rows.plasticity() == np.arange(1, r.tasks + 1).mean()
    assert rows.forgetting() == 0


@given(st.lists(matrices(3).filter(lambda r: r.tasks == 3), min_size=1, max_size=4))
def test_stacked_matrices_are_measured_one_by_one(single: list[Transfer]) -> None:
    stacked = Transfer(np.stack([r.scores for r in single])[:, None])
    for measure in ALL:
        wanted = [[getattr(r, measure)()] for r in single]
        assert getattr(stacked, measure)() == pytest.approx(np.array(wanted), abs=1e-12), measure
    assert stacked.so_far(3) == pytest.approx(np.array([[r.so_far(3)] for r in single]), abs=1e-12)


@given(matrices())
def test_a_measure_is_the_mean_of_its_values_by_task(r: Transfer) -> None:
    for measure in ALL:
        by_task = getattr(r, measure)(by_task=True)
        assert by_task.shape == (r.tasks,)
        assert np.isnan(by_task[:-1]).all() or not np.isnan(by_task[:-1]).any(), measure
        wanted = getattr(r, measure)()
        assert known_mean(by_task, -1) == pytest.approx(wanted, nan_ok=True), measure


def test_the_best_row_is_the_first_of_the_largest() -> None:
    assert HAND.best_rows().tolist() == [2, 2, 3]
    assert HAND.best() == pytest.approx([0.9, 0.6, 0.7])
    assert HAND.after(np.array([3, 2, 3])) == pytest.approx([0.5, 0.6, 0.7])
    assert Transfer(np.ones((4, 3))).best_rows().tolist() == [1, 2, 3]


def pictured(seed: int = 0, pictures: int = 8, tasks: int = 4) -> PictureTransfer:
    values = np.random.default_rng(seed).normal(size=(2, pictures, tasks + 1, tasks))
    return PictureTransfer(values, np.arange(pictures) % 4)


@pytest.mark.parametrize("measure", ALL)
def test_measures_of_pictures_average_to_the_measure_of_their_mean(measure: str) -> None:
    r = pictured()
    assert getattr(r, measure)(by_task=True).shape == (2, 8, 4)
    wanted = getattr(Transfer(r.scores.mean(1)), measure)()
    assert getattr(r, measure)().mean(1) == pytest.approx(wanted)


def test_pictures_that_a_task_does_not_have_do_not_count() -> None:
    scores = pictured().scores.copy()
    scores[:, 5:, :, 2] = N
    r = PictureTransfer(scores, np.arange(8) % 4)
    for measure in (*ALL, "forgetting_unbiased"):
        by_task = getattr(r, measure)(by_task=True)
        assert np.isnan(by_task[:, 5:, 2]).all()
        assert not np.isnan(by_task[:, :5, 2]).any()


def test_unbiased_forgetting_written_out() -> None:
    """A picture is compared after the row that is best in the block of other prompts and other noises."""
    r = pictured()
    found = r.forgetting_unbiased(by_task=True)
    for s, k, j in np.ndindex(2, 8, 3):
        others = [p for p in range(8) if p % 4 == 3 - k % 4]
        rows = range(j + 1, 5)
        best = max(rows, key=lambda i: np.mean([r.scores[s, p, i, j] for p in others]))
        assert found[s, k, j] == pytest.approx(r.scores[s, k, best, j] - r.scores[s, k, 4, j])
    assert np.isnan(found[..., 3]).all(), "the last task has nothing to forget"


def test_pictures_whose_opposite_block_a_task_does_not_have_are_compared_after_the_task_itself() -> None:
    scores = pictured().scores.copy()
    scores[:, 2:, :, 1] = N  # task 2 has only pictures of blocks 0 and 1
    r = PictureTransfer(scores, np.arange(8) % 4)
    found = r.forgetting_unbiased(by_task=True)
    assert found[:, :2, 1] == pytest.approx(scores[:, :2, 2, 1] - scores[:, :2, 4, 1])


def test_unbiased_forgetting_is_not_known_of_pictures_that_cannot_be_divided() -> None:
    r = pictured()
    assert np.isnan(PictureTransfer(r.scores[:, :1], np.array([0])).forgetting_unbiased()).all()
    by_prompts = PictureTransfer(r.scores, 2 * (np.arange(8) % 2)).forgetting_unbiased()
    assert not np.isnan(by_prompts).any()


def test_only_the_unbiased_form_is_zero_on_average_where_nothing_is_forgotten() -> None:
    r = PictureTransfer(np.random.default_rng(1).normal(size=(300, 8, 6, 5)), np.arange(8) % 4)
    assert abs(r.forgetting_unbiased().mean()) < 0.03
    assert abs(r.backward_transfer().mean()) < 0.03
    assert r.forgetting_usual().mean() > 0.25


def test_unbiased_forgetting_is_the_loss_where_it_is_plain() -> None:
    """The best row is the same in all pictures: both forms are the loss since it."""
    path = np.array([[0.0, 0, 0], [5, 0, 0], [9, 6, 0], [2, 4, 7]])
    r = PictureTransfer(path + 0.01 * np.random.default_rng(2).normal(size=(20, 4, 3)), np.arange(20) % 4)
    assert r.forgetting_unbiased().mean() == pytest.approx((7 + 2) / 2, abs=0.02)
    assert r.forgetting_usual().mean() == pytest.approx((7 + 2) / 2, abs=0.02)
