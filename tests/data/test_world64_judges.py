"""What the judges of the 64-pixel world can tell apart already; all they must is in data/world64/bars/judges.py."""

import pytest

from data.world64.bars.judges import BAR, BARS, captions, told_apart

pytestmark = pytest.mark.slow

NOT_YET = {("dino", "shuffled"), ("csd", "photo"), ("csd", "shuffled"), ("csd", "finely shuffled")}


@pytest.mark.parametrize(("name", "kind"), [bar for bar in BARS if bar not in NOT_YET])
def test_the_right_picture_scores_above(name: str, kind: str) -> None:
    assert told_apart(name, kind) >= BAR


@pytest.mark.parametrize("part", ["place", "noun"])
def test_the_right_caption_scores_above_one_with_the_wrong(part: str) -> None:
    assert float(captions(part).double().mean()) >= BAR
