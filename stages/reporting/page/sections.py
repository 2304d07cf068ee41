"""What the page shows, in its order. A section is a name, a title and a function; its template has its name.

To add one: a function from `Material` to what its template needs (None leaves the section out), a template, and a line
in SECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.evaluation import statistics
from stages.evaluation.preference import People
from stages.evaluation.statistics import Interval, Summary, Verdict
from stages.reporting import survey_wording, wording
from stages.reporting.data_files import rounded
from stages.reporting.page import background, charts, headline
from stages.reporting.page import damage as base_damage
from stages.reporting.page.filmstrip import Film, Roll, hero
from stages.reporting.page.sprites import Album
from stages.reporting.page.svg import draw
from stages.runtime.formatting import words

Context = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Material:
    """All that sections are made from."""

    summary: Summary
    asked: People | None = None
    album: Album = field(default_factory=Album)
    roll: Roll = field(default_factory=Roll)
    films: list[Film] = field(default_factory=list)

    def domains(self) -> list[tuple[str, list[Verdict]]]:
        """Each domain with its verdicts, the metric for recognising concepts first."""
        ordered = wording.ordered(self.summary)
        return [(d, [v for v in ordered if v.domain == d]) for d in self.summary.params.domains]

    @property
    def first_films(self) -> list[Film]:
        """The film of each domain's first order and seed."""
        return [next(one for one in self.films if one.domain == d) for d in self.summary.params.domains]

    @property
    def several(self) -> bool:
        """Whether there is more than one task: otherwise nothing can be forgotten."""
        return len(self.summary.params.tasks) > 1


def overview(material: Material) -> Context:
    params = material.summary.params
    cited = wording.paper() if params.report.paper else []
    domains = []
    for (domain, verdicts), strip in zip(material.domains(), material.first_films, strict=True):
        found = verdicts[0]
        known = {row["strategy"]: row for row in cited if row["domain"] == domain}
        rows = [
            {
                "strategy": name,
                "average": interval(intervals.get("average_score")),
                "forgetting": interval(intervals.get("forgetting")),
                "paper": known.get(name, {"score": "", "forgetting": ""}),
            }
            for name, intervals in {**found.strategies, "base model": found.base}.items()
        ]
        domains.append(
            {
                "name": domain,
                "lead": headline.sentence(found),
                "metric": found.metric,
                "rows": rows,
                "cited": any(name in known for name in found.strategies),
                "film": strip,
                "hero": list(hero(strip)),
            }
        )
    return {"domains": domains, "conclusions": wording.conclusions(material.summary), "note": wording.PAPER_NOTE}


def interval(found: Interval | None) -> dict[str, Any] | None:
    if found is None:
        return None
    exact = {key: rounded(getattr(found, key)) for key in ("value", "low", "high")}
    return exact | {key: f"{x + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−") for key, x in _named(exact)}


def _named(exact: dict[str, float]) -> list[tuple[str, float]]:
    return [(f"{key}_text", value) for key, value in exact.items()]


def curves(material: Material) -> Context | None:
    def panel(verdict: Verdict) -> Context:
        title = f"Mean {words(verdict.metric)} of the {verdict.domain} learnt so far, after each task"
        by_concept = [
            {"name": name, "svg": draw(charts.concept(verdict, j), f"{name}: {words(verdict.metric)} over time")}
            for j, name in enumerate(verdict.labels, 1)
        ]
        heads = ["after", *verdict.curves, "base model"]
        lines = [
            [str(after), *(statistics.show(line[after - 1]) for line in verdict.curves.values()), f"{base:.3f}"]
            for after, base in enumerate(verdict.base_curve, 1)
        ]
        return {"svg": draw(charts.curves(verdict), title), "concepts": by_concept, "rows": [heads, *lines]}

    return _panels(material, panel) if material.several else None


def heatmaps(material: Material) -> Context:
    def panel(verdict: Verdict) -> Context:
        return {
            "charts": [
                {
                    "strategy": name,
                    "svg": draw(charts.heatmap(verdict, name), f"{words(name)}: each concept after each task"),
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
        [label, *(f"{float(matrix.at(i, j)):.4f}" if (i, j) in known else "" for j in range(1, matrix.tasks + 1))]
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
        rows = wording.overview(verdict, ("plasticity", "forgetting_usual"), 2)[:-1]  # the base has learnt nothing
        return {"svg": draw(charts.trade_off(verdict), title), "rows": rows}

    return _panels(material, panel) if material.several else None


def harm(material: Material) -> Context | None:
    def panel(verdict: Verdict) -> Context:
        return {
            "charts": [
                {
                    "strategy": name,
                    "svg": draw(charts.harm(verdict, name), f"{words(name)}: what each task changed"),
                    "rows": _changes(verdict, name),
                    "told": headline.harm(verdict, name),
                }
                for name in verdict.matrices
            ]
        }

    return _panels(material, panel) if material.several else None


def _changes(verdict: Verdict, strategy: str) -> list[list[str]]:
    change = verdict.matrices[strategy].change()
    labels = verdict.labels
    rows = [
        [labels[i], *(f"{float(change[i, j]):+.4f}" if j < i else "" for j in range(len(labels) - 1))]
        for i in range(1, len(labels))
    ]
    return [["learning", *labels[:-1]], *rows]


def fidelity(material: Material) -> Context | None:
    """Metrics that compare with the prompt."""
    judges = material.summary.params.judges
    prompted = {name for name, judge in judges.items() if judge.compares_with == "prompt"}
    domains = []
    for domain, verdicts in material.domains():
        for verdict in (v for v in verdicts if v.metric in prompted):
            title = f"Mean {words(verdict.metric)} of the {domain} learnt so far, after each task"
            svg = draw(charts.curves(verdict), title) if material.several else None
            rows = wording.overview(verdict, ("average_score", "gain"), 2)
            domains.append({"name": domain, "metric": verdict.metric, "svg": svg, "rows": rows})
    return {"domains": domains} if domains else None


def numbers(material: Material) -> Context:
    def panel(verdict: Verdict) -> Context:
        compared = wording.differences(verdict, marks=("{} *", "{}")) if verdict.differences else None
        return {"rows": wording.everything(verdict), "differences": compared}

    return _panels(material, panel) | {"glossary": list(wording.GLOSSARY.values()), "head": wording.GLOSSARY_HEAD}


def _panels(material: Material, panel: Callable[[Verdict], Context]) -> Context:
    """What is shown by metric: one panel for each, of which the page shows the chosen one."""
    return {
        "domains": [
            {"name": domain, "panels": [{"metric": v.metric, **panel(v)} for v in verdicts]}
            for domain, verdicts in material.domains()
        ]
    }


def damage(material: Material) -> Context:
    return base_damage.damage(material.summary, material.album, material.roll)


def geometry(material: Material) -> Context | None:
    return background.geometry(material.summary)


def losses(material: Material) -> Context | None:
    return background.losses(material.summary)


def people(material: Material) -> Context | None:
    if material.asked is None:
        return None
    return {"raters": survey_wording.raters(material.asked), "opinions": survey_wording.opinions(material.asked)}


def study(material: Material) -> Context:
    return background.study(material.summary)


def photos(material: Material) -> Context:
    return background.photos(material.summary)


def citing(material: Material) -> Context:
    return {}


SECTIONS: Sequence[tuple[str, str, Callable[[Material], Context | None]]] = (
    ("overview", "Result", overview),
    ("curves", "Score over time", curves),
    ("heatmaps", "Forgetting, concept by concept", heatmaps),
    ("filmstrip", "The filmstrip", filmstrip),
    ("tradeoff", "Learning against keeping", tradeoff),
    ("harm", "Who harmed whom", harm),
    ("people", "What people say", people),
    ("fidelity", "Does it still follow the prompt?", fidelity),
    ("damage", "Damage to the base model", damage),
    ("geometry", "Geometry of what was learnt", geometry),
    ("losses", "Training losses", losses),
    ("numbers", "All measures", numbers),
    ("study", "What ran", study),
    ("photos", "Photos, models and licences", photos),
    ("citing", "How to cite", citing),
)
