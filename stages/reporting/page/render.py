"""Builds the page: one file that makes no requests, in which no prompt can become markup."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.core.params import Params
from stages.evaluation.preference import People
from stages.evaluation.statistics import Summary
from stages.reporting import regimes
from stages.reporting.page.charts import COLOURS, shape
from stages.reporting.page.filmstrip import films
from stages.reporting.page.overview import minus, shown_concepts
from stages.reporting.page.sections import BY_METRIC, SECTIONS, Context, Material
from stages.runtime.formatting import counted, number, words

# Runs before anything is shown, so that the parts that need a script are visible from the start.
BEGIN = 'document.documentElement.className = "js"'
TEMPLATES = Path(__file__).parent / "templates"


def page(summary: Summary, asked: People | None = None) -> str:
    """The text of report.html. Equal results give equal bytes.

    Args:
        summary: the results of the study.
        asked: the answers of raters, if there are any.

    Raises:
        InputFault: pictures or manifests are missing or damaged.
    """
    material = Material(summary, asked)
    material.films.extend(films(summary, material.album, material.roll))
    sections = [(name, title, context) for name, title, make in SECTIONS if (context := make(material)) is not None]
    script = source("report.js")
    text = (
        environment()
        .get_template("page.html.j2")
        .render(
            study=summary.params.study,
            sections=sections,
            strategies=strategy_keys(summary.params),
            metrics=_metrics(summary),
            films=[film.data() for film in material.films],
            sheets=[(f"p{k}", sheet) for k, sheet in enumerate(material.roll.sheets)],
            by_metric=[name for name, _, _ in sections if name in BY_METRIC],
            early={
                sheet
                for film in material.first_films
                for task in shown_concepts(len(film.strips))
                for sheet in film.sheets(task)
            },
            styles=Markup(source("report.css")),
            script=Markup(script),
            begin=Markup(BEGIN),
            policy=policy(BEGIN, script),
        )
    )
    return text.rstrip() + "\n"


def environment(*folders: Path) -> Environment:
    """The templates, and those in these folders: everything is escaped, and nothing may be missing."""
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader([*folders, TEMPLATES]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["counted"] = counted
    made.filters["words"] = words
    made.filters["score"] = _score
    made.filters["unbroken"] = _unbroken
    return made


def source(name: str) -> str:
    """The text of a file of the templates' folder."""
    return (TEMPLATES / name).read_text("utf-8").strip()


def _score(value: float) -> str:
    """A score with two digits and a minus sign; zero has no sign."""
    return minus(number(value))


def _unbroken(text: str) -> str:
    """The text with the bounds of an interval on one line: a narrow column breaks before them."""
    return re.sub(r"\[([^\],]+), ([^\],]+)\]", "[\\1,\u00a0\\2]", text)


def policy(*scripts: str) -> str:
    """The content security policy: inline styles and pictures, these scripts, and no requests."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    scripts_allowed = f" script-src {allowed};" if allowed else ""
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline';{scripts_allowed} base-uri 'none'"


def strategy_keys(params: Params) -> list[Context]:
    """The legend: the colour and shape of each strategy, with its regime if the study mixes them."""
    known = regimes.of(params)
    shown = known if regimes.mixed(known) else {}
    return [
        {"name": name, "regime": shown.get(name, ""), "colour": place % COLOURS, "shape": shape(place)}
        for place, name in enumerate(params.strategies)
    ]


def _metrics(summary: Summary) -> list[str]:
    """The names of the metrics, the one for recognising concepts first."""
    first = summary.params.report.identity
    return sorted(dict.fromkeys(v.metric for v in summary.verdicts), key=lambda name: name != first)
