"""Puts the page together: one file, no request to anywhere, and nothing in it that a prompt could turn into markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.evaluation.preference import People
from stages.evaluation.statistics import Summary
from stages.reporting.page.charts import COLOURS, SHAPES
from stages.reporting.page.filmstrip import films
from stages.reporting.page.sections import SECTIONS, Context, Material
from stages.runtime.formatting import words

# Said before anything is shown, so that what needs a script is there from the start.
BEGIN = 'document.documentElement.className = "js"'
TEMPLATES = Path(__file__).parent / "templates"


def page(summary: Summary, asked: People | None = None) -> str:
    """report.html. Equal results are equal bytes.

    Raises:
        InputFault: pictures or manifests are missing or damaged.
    """
    material = Material(summary, asked)
    material.films.extend(films(summary, material.album, material.roll))
    shown = [(name, title, found) for name, title, make in SECTIONS if (found := make(material)) is not None]
    script = _source("report.js")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = words
    text = environment.get_template("page.html.j2").render(
        study=summary.params.study,
        sections=shown,
        strategies=list(_keys(summary.params.strategies)),
        metrics=_metrics(summary),
        films=[one.data() for one in material.films],
        sheets=[(f"p{number}", sheet) for number, sheet in enumerate(material.roll.sheets)],
        early={name for one in material.first_films for name in one.first_sheets()},
        styles=Markup(_source("report.css")),
        script=Markup(script),
        begin=Markup(BEGIN),
        policy=policy(BEGIN, script),
    )
    return text.rstrip() + "\n"


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8").strip()


def policy(*scripts: str) -> str:
    """What the page may do: show itself, and run these scripts."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"


def _keys(strategies: Sequence[str]) -> list[Context]:
    """The legend: a colour and a shape for each strategy."""
    return [
        {"name": name, "colour": place % COLOURS, "shape": SHAPES[place % len(SHAPES)]}
        for place, name in enumerate(strategies)
    ]


def _metrics(summary: Summary) -> list[str]:
    """That for recognising concepts first."""
    first = summary.params.report.identity
    return sorted(dict.fromkeys(v.metric for v in summary.verdicts), key=lambda name: name != first)
