"""The animated terminal in the README: what was recorded, in order, within its seconds."""

import runpy
from xml.etree import ElementTree

SCRIPT = runpy.run_path("docs/images/terminal.py")
ROWS = [(0.0, "$ palimpsest run"), (3.0, "23 of 23 stages"), (90.0, "[ 1/23] <train> & merge: 80 s"), (90.1, "x" * 130)]


def test_lines_appear_in_order_within_the_time_and_are_escaped():
    moved = SCRIPT["shortened"](ROWS)
    times = [at for at, _ in moved]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] <= SCRIPT["SECONDS"] - SCRIPT["PAUSE"]
    assert [text for _, text in moved] == [text for _, text in ROWS]
    picture = ElementTree.fromstring(SCRIPT["drawn"](SCRIPT["folded"](moved)))
    shown = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert shown == [*(text for _, text in ROWS[:3]), "x" * 110, "x" * 20]
    assert not list(picture.iter("{http://www.w3.org/2000/svg}script"))
