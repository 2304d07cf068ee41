"""The sections of the page, in order. A section has a name, a title, a function and a template of the same name.

To add one, write a function from `Material` to the template's context (None omits the section), a template, and a line
in SECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.evaluation import statistics
from stages.evaluation.preference import People
from stages.evaluation.statistics import Summary, Verdict
from stages.reporting import conclusions, figures, glossary, headline, regimes, survey_wording, wording
from stages.reporting.aligned import section as aligned
from stages.reporting.aligned.wording import TITLE
from stages.reporting.page import background, charts, lines, swept
from stages.reporting.page import damage as base_damage
from stages.reporting.page import overview as first_screen
from stages.reporting.page.filmstrip import Film, Roll
from stages.reporting.page.sprites import Album
from stages.reporting.page.svg import draw
from stages.reporting.sweeps.variants import by_key
from stages.runtime.formatting import number, words

Context = dict[str, Any]
FILES = {  # beside the page: stages/report.py
    "scores.parquet": "every score of every picture, for notebooks",
    "matrix.csv": "R of every run, a line per cell",
    "curve.csv": "score and gain over the base model after each task",
    "differences.csv": "every paired difference, with its interval and corrected p",
    "checks.csv": "the merge check of every state",
    "metrics.json": "all measures with their intervals",
    "settings.json": "the parameters of the study",
    "results.md": "the tables and figures as text",
}


@dataclass(frozen=True, eq=False)
class Material:
    """The inputs of all sections."""

    summary: Summary
    asked: People | None = None
    album: Album = field(default_factory=Album)
    roll: Roll = field(default_factory=Roll)
    films: list[Film] = field(default_factory=list)

    def domains(self) -> list[tuple[str, list[Verdict]]]:
        """Each domain with its verdicts, the metric of identity first."""
        ordered = conclusions.ordered(self.summary)
        return [(d, [v for v in ordered if v.domain == d]) for d in self.summary.params.domains]

    @property
    def first_films(self) -> list[Film]:
        """The film of each domain's first order and seed."""
        return [next(one for one in self.films if one.domain == d) for d in self.summary.params.domains]

    @property
    def several(self) -> bool:
        """Whether there are several tasks; with one, nothing can be forgotten."""
        return len(self.summary.params.tasks) > 1


def overview(material: Material) -> Context:
    return first_screen.overview(material.summary, material.first_films)


def curves(material: Material) -> Context | None:
    def panel(verdict: Verdict) -> Context:
        title = _over_base(verdict)
        by_concept = [
            {"name": name, "svg": draw(lines.concept(verdict, j), f"{name}: {words(verdict.metric)} over time")}
            for j, name in enumerate(verdict.labels, 1)
        ]
        heads = ["after", *(regimes.titled(verdict.regimes, name) for name in verdict.gains), "score of the base model"]
        values = [
            [
                str(after),
                *(statistics.show(line[after - 1], signed=True) for line in verdict.gains.values()),
                number(base, 3),
            ]
            for after, base in enumerate(verdict.base_curve, 1)
        ]
        small = draw(lines.curves(verdict, 225, 230), title)
        return {
            "svg": draw(lines.curves(verdict), title),
            "small": small,
            "concepts": by_concept,
            "rows": [heads, *values],
        }

    return _panels(material, panel) if material.several else None


def _over_base(verdict: Verdict) -> str:
    return f"Gain in {words(verdict.metric)} over the base model on the {verdict.domain} learned so far"


def heatmaps(material: Material) -> Context:
    def panel(verdict: Verdict) -> Context:
        return {
            "charts": [
                {
                    "strategy": regimes.titled(verdict.regimes, name),
                    "svg": draw(
                        charts.heatmap(verdict, name), f"{figures.label(verdict, name)}: each concept after each task"
                    ),
                    "rows": wording.matrix(verdict.matrices[name], verdict.labels, 4),
                }
                for name in verdict.matrices
            ]
        }

    return _panels(material, panel)


def filmstrip(material: Material) -> Context:
    numbered = list(enumerate(material.films))
    domains = [(d, [(n, one) for n, one in numbered if one.domain == d]) for d in material.summary.params.domains]
    return {"domains": domains, "identity": material.summary.params.report.identity}


def tradeoff(material: Material) -> Context | None:
    def panel(verdict: Verdict) -> Context:
        title = f"{words(verdict.metric)} right after learning, against forgetting"
        rows = wording.overview(verdict, ("plasticity", wording.forgetting_of(verdict)), 2)[
            : 1 + len(verdict.strategies)
        ]
        return {"svg": draw(charts.trade_off(verdict), title), "rows": rows}

    return _panels(material, panel) if material.several else None


def sweeps(material: Material) -> Context | None:
    params = material.summary.params
    level = params.report.level
    return _panels(material, lambda verdict: swept.panel(params, verdict, level)) if by_key(params) else None


def harm(material: Material) -> Context | None:
    def panel(verdict: Verdict) -> Context:
        return {
            "charts": [
                {
                    "strategy": regimes.titled(verdict.regimes, name),
                    "svg": draw(charts.harm(verdict, name), f"{figures.label(verdict, name)}: what each task changed"),
                    "rows": _changes(verdict, name),
                    "worst": headline.harm(verdict, name),
                }
                for name in verdict.matrices
            ]
        }

    return _panels(material, panel) if material.several else None


def _changes(verdict: Verdict, strategy: str) -> list[list[str]]:
    change = verdict.matrices[strategy].change()
    labels = verdict.labels
    rows = [
        [labels[i], *(number(change[i, j], 4, signed=True) if j < i else "" for j in range(len(labels) - 1))]
        for i in range(1, len(labels))
    ]
    return [["learning", *labels[:-1]], *rows]


def fidelity(material: Material) -> Context | None:
    """The section on prompt fidelity: metrics that compare with the prompt."""
    judges = material.summary.params.judges
    prompted = {name for name, judge in judges.items() if judge.compares_with == "prompt"}
    domains = []
    for domain, verdicts in material.domains():
        for verdict in (v for v in verdicts if v.metric in prompted):
            svg = draw(lines.curves(verdict, 300, 190), _over_base(verdict)) if material.several else None
            rows = wording.overview(verdict, ("average_score", "gain"), 2)
            domains.append({"name": domain, "metric": verdict.metric, "svg": svg, "rows": rows})
    return {"domains": domains} if domains else None


def numbers(material: Material) -> Context:
    def panel(verdict: Verdict) -> Context:
        compared = wording.differences(verdict, level, mark="{} *") if verdict.differences else None
        measures = [m for m in glossary.GLOSSARY if m == wording.forgetting_of(verdict) or m not in glossary.LOSSES]
        return {"rows": wording.everything(verdict, measures), "differences": compared}

    level = material.summary.params.report.level
    defined = glossary.definitions(conclusions.levels(material.summary))
    more = {"level": f"{level:.2g}", "glossary": defined, "head": glossary.GLOSSARY_HEAD}
    return _panels(material, panel) | more


def published(material: Material) -> Context | None:
    """The section on other definitions of forgetting, among them the paper's, and on the paper's numbers."""

    def panel(verdict: Verdict) -> Context:
        cited = wording.paper_comparison(verdict) if material.summary.params.report.paper else None
        measures = [m for m in glossary.LOSSES if m != wording.forgetting_of(verdict)]
        return {"rows": wording.everything(verdict, measures), "paper": cited}

    return _panels(material, panel) | {"note": wording.PAPER_NOTE} if material.several else None


def _panels(material: Material, panel: Callable[[Verdict], Context]) -> Context:
    """A context with one panel per metric; the page shows the chosen one."""
    return {
        "domains": [
            {"name": domain, "panels": [{"metric": v.metric, **panel(v)} for v in verdicts]}
            for domain, verdicts in material.domains()
        ]
    }


def damage(material: Material) -> Context:
    return base_damage.damage(material.summary, material.album, material.roll)


def people(material: Material) -> Context | None:
    asked = material.asked
    if asked is None:
        return None
    power = survey_wording.power(asked) if asked.opinions else ""
    opinions = survey_wording.opinions(asked, regimes.of(material.summary.params))
    return {"raters": survey_wording.raters(asked), "opinions": opinions, "power": power}


def citing(material: Material) -> Context:
    return {"files": FILES}


# Those from "curves" to "published" follow the metric that the page's switch selects.
SECTIONS: Sequence[tuple[str, str, Callable[[Material], Context | None]]] = (
    ("overview", "Result", overview),
    ("curves", "Score over time", curves),
    ("heatmaps", "Forgetting, concept by concept", heatmaps),
    ("filmstrip", "Filmstrip", filmstrip),
    ("tradeoff", "Learning vs. forgetting", tradeoff),
    ("swept", "Variants and fronts", sweeps),
    ("harm", "Effect of each task on earlier concepts", harm),
    ("numbers", "All measures", numbers),
    ("published", "As published, and the paper", published),
    ("people", "Human preference", people),
    ("fidelity", "Does it still follow the prompt?", fidelity),
    ("damage", "Damage to the base model", damage),
    ("geometry", "Geometry of the learned deltas", lambda material: background.geometry(material.summary)),
    ("alignment", TITLE, lambda material: aligned.alignment(material.summary)),
    ("losses", "Training losses", lambda material: background.losses(material.summary)),
    ("study", "Study and settings", lambda material: background.study(material.summary)),
    ("photos", "Photos, models and licences", lambda material: background.photos(material.summary)),
    ("citing", "Data, code and citation", citing),
)
BY_METRIC = {"curves", "heatmaps", "filmstrip", "tradeoff", "swept", "harm", "numbers", "published"}
