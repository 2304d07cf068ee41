"""Vega-Lite charts as SVG in the page: drawn when the report is made, coloured by the page's style sheet.

They need no script to be shown, they print, and they follow light and dark mode. The value of a mark is in its
`data-tip`; the page's script shows it at the pointer and for the arrow keys.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import vl_convert
from markupsafe import Markup, escape

from stages.reporting.figures import FONTS

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
TYPEFACE = "DejaVu Sans"  # to measure labels, the same on every machine; browsers use the typeface of the page
INK, QUIET, LINE = "var(--ink)", "var(--quiet)", "var(--line)"
CONFIG: Spec = {
    "font": TYPEFACE,
    "background": None,
    "aria": True,
    "view": {"stroke": None},
    "axis": {
        "aria": False,
        "domain": False,
        "ticks": False,
        "gridColor": LINE,
        "labelColor": QUIET,
        "labelFontSize": 11,
        "labelPadding": 6,
        "titleColor": QUIET,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "line": {"aria": False, "strokeWidth": 2, "strokeCap": "round", "strokeJoin": "round"},
    "area": {"aria": False},
    "rule": {"aria": False},
    "text": {"aria": False},
}


PLACES = re.compile(r' (?:d|transform|x|y|x1|x2|y1|y2|width|height|font-size)="[^"]*"')


def _shorter(attribute: re.Match[str]) -> str:
    """An attribute with its coordinates to a hundredth of a pixel."""
    return re.sub(r"-?\d+\.\d{3,}", lambda x: f"{round(float(x[0]), 2) + 0.0:g}", attribute[0])


@cache
def _fonts() -> None:
    vl_convert.register_font_directory(str(FONTS))


def draw(spec: Spec, title: str) -> Markup:
    """Draws one chart. Equal specifications give equal bytes.

    Args:
        spec: Vega-Lite; the `description` of a mark becomes its tip.
        title: the text alternative for screen readers.

    Returns:
        An <svg> element.
    """
    _fonts()
    complete = {"$schema": SCHEMA, "config": CONFIG, "padding": 8, **spec}
    text: str = vl_convert.vegalite_to_svg(complete, vl_version="6.4")
    text = re.sub(r' (?:xmlns:xlink|version|class)="[^"]*"', "", text)
    text = re.sub(r' (?:role|aria-roledescription|aria-hidden)="[^"]*"', "", text)
    text = re.sub(r' (?:pointer-events|font-family)="[^"]*"', "", text)  # the style sheet has them
    text = PLACES.sub(_shorter, text)
    text = text.replace(' aria-label="', ' data-tip="')
    if " id=" in text:
        raise ValueError("the chart has ids, which would clash with those of the page's other charts")
    width, height = re.findall(r'width="(\d+)" height="(\d+)"', text)[0]
    opening = f'<svg role="img" aria-label="{escape(title)}" style="max-width:{width}px" '
    return Markup(opening + text.removeprefix("<svg ").replace(f' width="{width}" height="{height}"', "", 1))
