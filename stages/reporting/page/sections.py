"""The sections of the page, in order. A section has a name, a title, a function and a template of the same name.

To add one, write a function from `Material` to the template's context (None omits the section), a template, and a line
in SECTIONS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.evaluation import statistics
from stages.evaluation.preference import People
from stages.evaluation.statistics import Interval, Intervals, Summary, Verdict
from stages.reporting import conclusions, figures, glossary, headline, regimes, survey_wording, wording
from stages.reporting.data_files import rounded
from stages.reporting.page import background, charts, swept
from stages.reporting.page import damage as base_damage
from stages.reporting.page.filmstrip import Film, Roll, hero
from stages.reporting.page.sprites import Album
from stages.reporting.page.svg import draw
from stages.reporting.sweeps.variants import by_key
from stages.runtime.formatting import words

Context = dict[str, Any]


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
    """The first screen: the headline, a table, and the first concept's pictures."""
    summary = material.summary
    domains = []
    for (domain, verdicts), strip in zip(material.domains(), material.first_films, strict=True):
        verdict = verdicts[0]
        rows = [
            {
                "strategy": name,
                "regime": wording.regime_of(verdict, name),
                "key": k if k < len(verdict.strategies) else None,
                "average": interval(intervals.get("average_score")),
                "forgetting": interval(_forgetting(intervals)),
            }
            for k, (name, intervals) in enumerate(wording.rows_of(verdict).items())
        ]
        domains.append(
            {
                "name": domain,
                "lead": _formatted(headline.headline(summary, domain).text),
                "metric": verdict.metric,
                "rows": rows,
                "film": strip,
                "hero": list(hero(strip)),
            }
        )
    lines = [_formatted(line) for line in conclusions.conclusions(summary)]
    confidence = f"{100 * summary.params.report.confidence:g} %"
    return {
        "domains": domains,
        "conclusions": lines,
        "practice": headline.practice(summary.params),
        "confidence": confidence,
    }


def _forgetting(intervals: Intervals) -> Interval | None:
    return statistics.shown_forgetting(intervals) if "forgetting_usual" in intervals else None


def _formatted(text: str) -> str:
    """A sentence with names and numbers in the page's spelling."""
    return words(minus(text))


def minus(text: str) -> str:
    """The text with a minus sign, not a hyphen, before numbers."""
    return re.sub(r"(?<![\w.])-(?=[\d.])", "\u2212", text)


def interval(shown: Interval | None) -> dict[str, Any] | None:
    if shown is None:
        return None
    exact = {key: rounded(x) for key in ("value", "low", "high") if not math.isnan(x := getattr(shown, key))}
    return exact | {f"{key}_text": minus(headline.number(x)) for key, x in exact.items()}


def curves(material: Material) -> Context | None:
    def panel(verdict: Verdict) -> Context:
        title = f"Mean {words(verdict.metric)} of the {verdict.domain} learned so far, after each task"
        by_concept = [
            {"name": name, "svg": draw(charts.concept(verdict, j), f"{name}: {words(verdict.metric)} over time")}
            for j, name in enumerate(verdict.labels, 1)
        ]
        heads = ["after", *(regimes.titled(verdict.regimes, name) for name in verdict.curves), "base model"]
        lines = [
            [
                str(after),
                *(statistics.show(line[after - 1]) for line in verdict.curves.values()),
                headline.number(base, 3),
            ]
            for after, base in enumerate(verdict.base_curve, 1)
        ]
        return {"svg": draw(charts.curves(verdict), title), "concepts": by_concept, "rows": [heads, *lines]}

    return _panels(material, panel) if material.several else None


def heatmaps(material: Material) -> Context:
    def panel(verdict: Verdict) -> Context:
        return {
            "charts": [
                {
                    "strategy": regimes.titled(verdict.regimes, name),
                    "svg": draw(
                        charts.heatmap(verdict, name), f"{figures.label(verdict, name)}: each concept after each task"
                    ),
                    "rows": _matrix(verdict, name),
                }
                for name in verdict.matrices
            ]
        }

    return _panels(material, panel)


def _matrix(verdict: Verdict, strategy: str) -> list[list[str]]:
    matrix = verdict.matrices[strategy]
    known = set(matrix.cells())
    heads = ["after learning", *verdict.labels]
    rows = [
        [
            label,
            *(
                headline.number(float(matrix.at(i, j)), 4) if (i, j) in known else ""
                for j in range(1, matrix.tasks + 1)
            ),
        ]
        for i, label in enumerate(("base model", *verdict.labels))
    ]
    return [heads, *rows]


def filmstrip(material: Material) -> Context:
    numbered = list(enumerate(material.films))
    domains = [(d, [(n, one) for n, one in numbered if one.domain == d]) for d in material.summary.params.domains]
    return {"domains": domains, "identity": material.summary.params.report.identity}


def tradeoff(material: Material) -> Context | None:
    def panel(verdict: Verdict) -> Context:
        title = f"{words(verdict.metric)} right after learning, against forgetting"
        unbiased = any("forgetting_unbiased" in intervals for intervals in verdict.strategies.values())
        measure = "forgetting_unbiased" if unbiased else "forgetting_usual"
        rows = wording.overview(verdict, ("plasticity", measure), 2)[: 1 + len(verdict.strategies)]
        return {"svg": draw(charts.trade_off(verdict), title), "rows": rows}

    return _panels(material, panel) if material.several else None


def sweeps(material: Material) -> Context | None:
    params = material.summary.params
    level = 1 - params.report.confidence
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
        [labels[i], *(headline.number(change[i, j], 4, signed=True) if j < i else "" for j in range(len(labels) - 1))]
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
            title = f"Mean {words(verdict.metric)} of the {domain} learned so far, after each task"
            svg = draw(charts.curves(verdict), title) if material.several else None
            rows = wording.overview(verdict, ("average_score", "gain"), 2)
            domains.append({"name": domain, "metric": verdict.metric, "svg": svg, "rows": rows})
    return {"domains": domains} if domains else None


def numbers(material: Material) -> Context:
    def panel(verdict: Verdict) -> Context:
        compared = wording.differences(verdict, level, mark="{} *") if verdict.differences else None
        cited = wording.paper_comparison(verdict) if params.report.paper else None
        return {"rows": wording.everything(verdict), "differences": compared, "paper": cited}

    params = material.summary.params
    level = 1 - params.report.confidence
    more = {"level": f"{level:.2g}", "note": wording.PAPER_NOTE}
    return (
        _panels(material, panel) | more | {"glossary": list(glossary.GLOSSARY.values()), "head": glossary.GLOSSARY_HEAD}
    )


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
    if material.asked is None:
        return None
    opinions = survey_wording.opinions(material.asked, regimes.of(material.summary.params))
    return {"raters": survey_wording.raters(material.asked), "opinions": opinions}


def citing(material: Material) -> Context:
    return {}


SECTIONS: Sequence[tuple[str, str, Callable[[Material], Context | None]]] = (
    ("overview", "Result", overview),
    ("curves", "Score over time", curves),
    ("heatmaps", "Forgetting, concept by concept", heatmaps),
    ("filmstrip", "Filmstrip", filmstrip),
    ("tradeoff", "Learning vs. forgetting", tradeoff),
    ("swept", "Variants and fronts", sweeps),
    ("harm", "Effect of each task on earlier concepts", harm),
    ("people", "Human preference", people),
    ("fidelity", "Does it still follow the prompt?", fidelity),
    ("damage", "Damage to the base model", damage),
    ("geometry", "Geometry of the learned deltas", lambda material: background.geometry(material.summary)),
    ("losses", "Training losses", lambda material: background.losses(material.summary)),
    ("numbers", "All measures", numbers),
    ("study", "Study and settings", lambda material: background.study(material.summary)),
    ("photos", "Photos, models and licences", lambda material: background.photos(material.summary)),
    ("citing", "How to cite", citing),
)
