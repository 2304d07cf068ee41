"""Alignment of tasks in weight and function space, against what they harm."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from stages.adapters.merge_check import check
from stages.adapters.state import State
from stages.core.runs import runs
from stages.evaluation.geometry import alignment
from stages.evaluation.geometry.alignment import MEASURES, Point, align, correlations, in_functions
from stages.evaluation.statistics import summarise
from stages.files import artifact
from stages.reporting import data_files
from stages.reporting.aligned import section, wording
from stages.runtime.faults import InputFault
from tests.adapters.test_algebra import SHAPES, adapter
from tests.support import synthetic_study

seeds = draw.integers(0, 1000)


@settings(max_examples=20, deadline=None)
@given(seeds, seeds)
def test_for_a_linear_model_and_all_inputs_both_spaces_agree(i, j):
    """f(x) = (W + D) x over an orthonormal basis of inputs is W + D itself, so both cosines are of the same numbers."""
    old, new = adapter(i).delta, adapter(j + 2000).delta
    base = {name: np.random.default_rng(i).normal(size=shape) for name, shape in SHAPES.items()}
    found = check(State(old), old, adapter(j + 2000), State(old + new), lambda name: _zeros(name))
    inputs = {name: np.linalg.qr(np.random.default_rng(j).normal(size=(n, n)))[0] for name, (_, n) in SHAPES.items()}

    def response(*deltas) -> np.ndarray:
        weights = {n: w + sum(np.asarray(d.module(n), np.float64) for d in deltas) for n, w in base.items()}
        return np.concatenate([(weights[name] @ inputs[name]).ravel() for name in SHAPES])

    measured = in_functions(response(), response(old), response(old, new))
    assert measured["function_cosine"] == pytest.approx(found.cosine, abs=1e-5)
    before = np.sqrt(sum(float(m.double().square().sum()) for _, m in old.matrices()))
    assert measured["function_change"] == pytest.approx(found.own_norm / before, rel=1e-5)


def _zeros(name: str):
    import torch

    return torch.zeros(SHAPES[name])


def test_a_task_that_goes_on_goes_back_or_turns_aside():
    base, before = np.zeros(4), np.array([1.0, 0, 0, 0])
    cosines = [in_functions(base, before, before + step)["function_cosine"] for step in (before, -before, np.eye(4)[1])]
    assert cosines == pytest.approx([1, -1, 0])
    assert np.isnan(in_functions(base, base, before)["function_cosine"])  # nothing to be aligned with


def test_within_strategies_a_difference_between_strategies_is_no_correlation():
    rng = np.random.default_rng(0)
    points = [
        Point(name, f"c{k % 6}", {"weight_cosine": level + rng.normal()}, level + rng.normal())
        for name, level in (("one", 0.0), ("other", 20.0))
        for k in range(18)
    ]
    found = {(one.measure, one.within): one for one in correlations(points, 0.95)}
    assert found["weight_cosine", False].value > 0.95
    assert abs(found["weight_cosine", True].value) < 0.5
    assert found["weight_cosine", True].low < 0 < found["weight_cosine", True].high
    assert found["function_cosine", False].points == 0


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("aligned"))
        params = synthetic_study.parameters(
            tasks=5, strategies=("naive", "merge_init", "magmax"), orders=("0", "1"), sees_all=True, responses=2
        )
        synthetic_study.write(params)
        yield params


def test_the_harm_is_what_the_earlier_concepts_lost(study):
    summary = summarise(study)
    (found,) = summary.alignments
    assert len(found.points) == 3 * 2 * 4
    verdict = next(v for v in summary.verdicts if v.metric == study.report.identity)
    strategy, order, _, matrix = verdict.runs[0]
    names = list(study.sequence("objects", order).values())
    for task in range(2, 6):
        lost = np.mean([float(matrix.at(task - 1, j) - matrix.at(task, j)) for j in range(1, task)])
        point = found.points[task - 2]
        assert (point.strategy, point.concept) == (strategy, names[task - 1])
        assert point.harm == pytest.approx(lost)
        assert point.measures["weight_change"] == pytest.approx(1 / task)
        assert point.measures["function_change"] == pytest.approx(1 / (task - 1) ** 0.5, rel=0.4)
        assert abs(point.measures["function_cosine"]) < 0.8


def test_functions_are_compared_on_the_concepts_before_the_task(study, monkeypatch):
    run = runs(study)[0]
    folders = [run.sequence.base, *(run.at(task.index) for task in study.tasks)]
    rng = np.random.default_rng(0)
    records = [{f"{j:02d}": rng.normal(size=(2, 3)) for j in range(1, 6)} for _ in folders]
    by_folder = dict(zip((folder / "images" for folder in folders), records, strict=True))
    monkeypatch.setattr(alignment, "_read", by_folder.__getitem__)
    found = alignment._functions(study, run)
    assert list(found) == [2, 3, 4, 5]
    for task, measures in found.items():
        base, before, after = (
            np.concatenate([records[at][f"{j:02d}"].ravel() for j in range(1, task)]) for at in (0, task - 1, task)
        )
        old, new = before - base, after - before
        assert measures["function_change"] == pytest.approx(np.linalg.norm(new) / np.linalg.norm(old))
        assert measures["function_cosine"] == pytest.approx(old @ new / np.linalg.norm(old) / np.linalg.norm(new))


def test_it_is_in_every_form_of_the_report(study):
    summary = summarise(study)
    text = "\n".join(wording.markdown(summary))
    assert all(wording.TITLES[measure] in text for measure in MEASURES)
    tree = json.loads(artifact.to_json(data_files.metrics(summary)))["alignment"]["objects"]
    assert set(tree) == set(MEASURES)
    assert all(set(leaf) == {"all", "within_strategies"} for leaf in tree.values())
    value = tree["function_change"]["all"]
    assert -1 <= value["low"] <= value["value"] <= value["high"] <= 1
    context = section.alignment(summary)
    (domain,) = context["domains"]
    assert len(domain["panels"]) == 4
    assert all("svg" in str(panel["svg"]) and len(panel["rows"]) == 25 for panel in domain["panels"])
    assert wording.markdown(replace(summary, alignments=[])) == []
    assert section.alignment(replace(summary, alignments=[])) is None


def test_a_missing_record_is_named(study):
    summary = summarise(study)
    matrices = next(v.runs for v in summary.verdicts if v.metric == study.report.identity)
    other = study.model_copy(update={"study": "elsewhere"})
    with pytest.raises(InputFault, match="elsewhere"):
        align(other, "objects", "looks", matrices, [])
    without = study.model_copy(update={"sample": study.sample.model_copy(update={"responses": 0})})
    assert align(without, "objects", "looks", matrices, []) is None
