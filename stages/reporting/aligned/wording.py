"""The correlation of alignment with forgetting, in words and as a table."""

from __future__ import annotations

from stages.evaluation.geometry.alignment import MEASURES, Alignment
from stages.evaluation.statistics import Interval, Summary, show
from stages.runtime.formatting import Rows, in_markdown

TITLES = {
    "weight_cosine": "cosine in weights",
    "weight_change": "change in weights",
    "function_cosine": "cosine in predictions",
    "function_change": "change in predictions",
}
TITLE = "Alignment and forgetting"
MEANING = (
    "For every task after the first: what it cost the earlier concepts (mean loss of score), against its direction and "
    "size relative to all earlier tasks, in the weights and in what the model predicts for the same noised pictures of "
    "the earlier concepts. A correlation is no cause. Intervals cover other concepts (jackknife over those learned)."
)


def rows(aligned: Alignment) -> Rows:
    """A table of measures by their correlation with the harm, over all tasks and within strategies."""
    shown = {(one.measure, one.within): show(Interval(one.value, one.low, one.high), 2) for one in aligned.correlations}
    points = {one.measure: one.points for one in aligned.correlations}
    head = ["correlation with the harm to earlier concepts", "all tasks", "within strategies", "tasks"]
    table = [[TITLES[m], shown[m, False], shown[m, True], str(points[m])] for m in MEASURES if points[m]]
    return [head, *table]


def markdown(summary: Summary) -> list[str]:
    """The part of results.md; empty if no predictions were recorded."""
    if not summary.alignments:
        return []
    parts = [f"## {TITLE}", MEANING]
    for aligned in summary.alignments:
        parts += [f"### {aligned.domain}, by {aligned.metric}", in_markdown(rows(aligned))]
    return parts
