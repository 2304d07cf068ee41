"""The page of what was measured, made from data/performance."""

import json

import pytest

from stages.tools.forecasting import cards
from tests.bench.gpu import page
from tests.bench.gpu.bench import ADDED_UP


def test_performance_page_is_made_of_the_results():
    results = [json.loads(file.read_text("utf-8")) for file in sorted(page.RESULTS.glob("*.json"))]
    assert results
    assert page.PAGE.read_text("utf-8") == page.page(results)


def measured(date: str, **seconds: float) -> dict[str, object]:
    """A card's results."""
    figures = {name: {"median": value, "blocks": 2} for name, value in seconds.items()}
    facts = {"card": "A card", "date": date, "versions": {"torch": "1"}, "command": "python -m tests.bench.gpu"}
    return facts | {"seconds": figures, "targets": {cards.STEP: 0.03} if cards.STEP in seconds else {}}


def test_the_page_begins_with_the_newest_figures_beside_others_and_a_task_added_up_from_them():
    step, picture = page.OTHERS["diffusers"]
    ours = {cards.STEP: 0.04, cards.CHECKPOINT: 9.0, cards.ONCE: 2.0, cards.PICTURE: 1.0}
    old = measured("2030-01-01", **ours | {cards.STEP: 0.08, step: 0.8, picture: 2.0, ADDED_UP: 999.0})
    text = page.page([measured("2030-01-02", **{cards.STEP: 0.04, "chains: 2": 0.03}), old])
    overview = text[: text.index("## A card, ")]
    for row in (
        "| ours, float16 | 40 ms | 1.00 | 30 ms | 2 | 2030-01-02 |",
        "| diffusers' script, best flags, bfloat16 | 800 ms | 20.00 | | 2 | 2030-01-01 |",
        "| once per task | 2.00 s | 2 | 2030-01-01 |",  # a column without content is left out
        "| 2 | 30 ms | 2 | 2030-01-02 |",
        "| ours, with what is done once and checkpoints | 76.68 s | 1.00 |",  # 850 x 0.04 x 1.02 + 2 + 40
        "| diffusers, without loading and saving | 760.00 s | 9.91 |",
    ):
        assert row in overview
    assert "999" not in overview
    assert "added up" not in page.page([measured("2030-01-02", **{cards.STEP: 0.04})])


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("python -m tests.bench.gpu --seconds 390", "all parts"),
        ("python -m tests.bench.gpu --only swap chains --alone", "swap, chains"),
        ("python -m tests.bench.chains.together --rounds 9", "together"),
    ],
)
def test_a_section_is_named_by_what_was_measured(command, what):
    assert page.parts(command) == what
