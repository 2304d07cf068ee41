"""Vega-Lite charts as SVG inside the page: drawn when the report is made, coloured by the page's style sheet.

A browser needs no script to show them, they print, and they follow light and dark. What a mark stands for is in its
`data-tip`; the page's script shows it under the pointer and for the arrow keys.
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
TYPEFACE = "DejaVu Sans"  # what room for labels is measured with, the same on every machine; browsers use the page's
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


@cache
def _fonts() -> None:
    vl_convert.register_font_directory(str(FONTS))


def draw(spec: Spec, title: str) -> Markup:
    """One chart. Equal specifications are equal bytes.

    Args:
        spec: Vega-Lite; the `description` of a mark becomes its tip.
        title: what a screen reader says instead of the picture.
    """
    _fonts()
    full = {"$schema": SCHEMA, "config": CONFIG, "padding": 8, **spec}
    text: str = vl_convert.vegalite_to_svg(full, vl_version="6.4")
    text = re.sub(r' (?:xmlns:xlink|version|class)="[^"]*"', "", text)
    text = re.sub(r' (?:role|aria-roledescription|aria-hidden)="[^"]*"', "", text)
    text = text.replace(' aria-label="', ' data-tip="').replace(TYPEFACE, "inherit")
    if " id=" in text:
        raise ValueError("a chart with ids would share them with the page's other charts")
    width, height = re.findall(r'width="(\d+)" height="(\d+)"', text)[0]
    head = f'<svg role="img" aria-label="{escape(title)}" style="max-width:{width}px" '
    return Markup(head + text.removeprefix("<svg ").replace(f' width="{width}" height="{height}"', "", 1))
