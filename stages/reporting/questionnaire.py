"""A study with people: blind two-way choices between the pictures of two strategies, as one page that works offline.

The page shows numbered pictures and no name of a strategy; the key that identifies them stays with the study. A
comparison shows two strategies with the same concept, prompt and noise after the last task, and asks two questions:
which picture shows the concept of these photos, and which one follows the text. Trials with a known answer are mixed in
to detect raters who do not look: see survey.py.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from stages.core.params import Params
from stages.core.runs import Run, TaskSequence
from stages.evaluation.preference import answers_needed
from stages.evaluation.results import OWN, Results, load
from stages.evaluation.survey import CHECKS, MINIMUM
from stages.files import artifact
from stages.files.pictures import open_picture
from stages.reporting.page.render import TEMPLATES, environment, policy
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import seed

SHOWN = 512  # pixels: larger pictures are scaled down to this, so that the page stays small
REFERENCES = 4  # photos shown with a comparison


@dataclass(frozen=True)
class Comparison:
    """Two pictures of one concept, the first of `first`, the second of `second`."""

    domain: str
    task: int
    order: str
    seed: int
    picture: int
    first: str
    second: str
    scores: Mapping[str, tuple[float, float]]  # by metric


def choose(params: Params, domains: Sequence[Results], count: int) -> list[Comparison]:
    """Chooses comparisons: every pair and every concept about equally often, run and picture at random.

    Args:
        params: the parameters of the study.
        domains: the results of each domain.
        count: comparisons per domain.

    Raises:
        ConfigFault: the study has only one strategy.
    """
    if len(params.strategies) < 2:
        raise ConfigFault("strategies: a comparison needs two or more. List another one and run the study.")
    chosen = []
    for results in domains:
        rng = np.random.default_rng(seed(params.study, results.domain, "people"))
        pairs = list(combinations(range(len(results.strategies)), 2))
        for number in range(count):
            round_, pair = divmod(number, len(pairs))
            a, b = pairs[pair] if rng.uniform() < 0.5 else pairs[pair][::-1]
            task = (round_ + pair) % results.tasks
            run = int(rng.integers(len(results.runs)))
            picture = int(rng.integers(results.pictures[results.concepts[run, task]]))
            chosen.append(_comparison(results, (a, b), run, task, picture))
    return chosen


def _comparison(results: Results, pair: tuple[int, int], run: int, task: int, picture: int) -> Comparison:
    a, b = pair
    order, seed_of_run = results.runs[run]
    scores = {
        metric: tuple(float(measures[OWN][s, run, -1, task, picture]) for s in pair)
        for metric, measures in results.measured.items()
    }
    names = (results.strategies[a], results.strategies[b])
    return Comparison(results.domain, task + 1, order, seed_of_run, picture, *names, scores)  # type: ignore[arg-type]


class Page:
    """Collects the content of a page, with each distinct picture once."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.pictures: list[str] = []
        self.trials: list[dict[str, Any]] = []
        self.key: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, int] = {}

    def add(self, comparison: Comparison) -> None:
        """Adds a comparison with both questions."""
        concept, references = self._concept(comparison.domain, comparison.order, comparison.task)
        prompt, noise = divmod(comparison.picture, self.params.sample.images)
        file = f"{comparison.task:02d}/{prompt:02d}-{noise:02d}.png"
        last = self.params.tasks[-1].index
        both = []
        for strategy in (comparison.first, comparison.second):
            run = Run(TaskSequence(self.params.study, comparison.domain, comparison.order), strategy, comparison.seed)
            both.append(self._picture(open_picture(run.at(last) / "images", file)))
        self._append(concept, references, both, concept["plain_prompts"][prompt], comparison.__dict__)

    def add_check(self, where: tuple[str, str], task: int, other: int, number: int) -> None:
        """Adds a choice between a photo of one concept, which is right, and one of the concept at position `other`.

        Args:
            where: domain and order.
            number: selects the photos.
        """
        concept, references = self._concept(*where, task)
        _, wrong = self._concept(*where, other)
        right = references.pop(number % len(references)) if len(references) > 1 else references[0]
        self._append(concept, references, [right, wrong[number % len(wrong)]], None, {"catch": True})

    def _append(
        self,
        concept: Mapping[str, Any],
        references: list[int],
        both: list[int],
        text: str | None,
        facts: Mapping[str, Any],
    ) -> None:
        name = f"c{len(self.trials):03d}"
        noun = concept["noun"]
        question = (
            f"Which picture shows the same {noun} as these?" if noun else "Which picture is in the style of these?"
        )
        asked = {"same": question} | ({"text": text} if text is not None else {})
        known = text is None
        self.trials.append({"id": name, "references": references, "pictures": both, "asked": asked, "known": known})
        self.key[name] = dict(facts)

    def _concept(self, domain: str, order: str, task: int) -> tuple[dict[str, Any], list[int]]:
        """The description of a concept and the numbers of its reference pictures."""
        folder = TaskSequence(self.params.study, domain, order).data(f"{task:02d}")
        facts = artifact.read(folder, "data")
        files = [entry["file"] for entry in facts["pictures"]["references"][:REFERENCES]]
        return facts["concept"], [self._picture(open_picture(folder, file)) for file in files]

    def _picture(self, image: Image.Image) -> int:
        """The number of a picture, which is added if it is new."""
        image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
        small = max(image.size) <= 128
        data = io.BytesIO()
        image.save(data, "PNG") if small else image.save(data, "JPEG", quality=92, subsampling=0)
        kind = "png" if small else "jpeg"
        text = f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
        if text not in self._numbers:
            self._numbers[text] = len(self.pictures)
            self.pictures.append(text)
        return self._numbers[text]

    def render(self, each: int) -> tuple[str, dict[str, Any]]:
        """The page and its key.

        Args:
            each: comparisons shown to one rater, besides the trials with a known answer.
        """
        facts = {
            "study": self.params.study,
            "each": each,
            "minimum": MINIMUM,
            "pictures": self.pictures,
            "trials": self.trials,
        }
        digest = artifact.digest(facts)[:16]
        script = (TEMPLATES / "people.js").read_text("utf-8")
        shown = {"facts": {**facts, "page": digest}, "study": self.params.study}
        template = environment().get_template("people.html")
        page = template.render(**shown, script=Markup(script), policy=Markup(policy(script)))
        return page, {"page": digest, "study": self.params.study, "comparisons": self.key}


def make(params: Params, count: int, each: int) -> tuple[str, dict[str, Any]]:
    """Makes the page for raters and its key.

    Args:
        params: the parameters of the study.
        count: comparisons per domain, without the trials with a known answer.
        each: comparisons shown to one rater, those trials included.

    Raises:
        ConfigFault: the study has only one strategy or one concept, there would be no comparison, or a rater would see
            nothing but known answers.
        InputFault: the study is not complete.
    """
    if len(params.tasks) < 2:
        raise ConfigFault("tasks: trials with a known answer show two concepts, and there is one. Learn another one.")
    if each <= CHECKS:
        raise ConfigFault(f"--each {each}: {CHECKS} of them have a known answer. Give more, for example 40.")
    if count < 1:
        raise ConfigFault(f"--comparisons {count}: must be at least 1.")
    domains = [load(params, domain) for domain in params.domains]
    page = Page(params)
    for comparison in choose(params, domains, count):
        page.add(comparison)
    rng = np.random.default_rng(seed(params.study, "people", "checks"))
    for number in range(CHECKS):
        domain, order = params.domains[number % len(params.domains)], params.orders[number % len(params.orders)]
        task, other = (int(k) + 1 for k in rng.choice(len(params.tasks), 2, replace=False))
        page.add_check((domain, order), task, other, number)
    return page.render(min(each, len(page.trials)) - CHECKS)


def needed(preference: float, strategies: int, each: int) -> tuple[int, int]:
    """How many answers and raters a study needs.

    Args:
        preference: the probability that the better of two strategies is chosen.
        strategies: how many strategies are compared.
        each: comparisons shown to one rater, the trials with a known answer included.

    Returns:
        The answers per pair of strategies, and the raters for all pairs.

    Raises:
        ConfigFault: the preference does not lie between 0.5 and 1.
    """
    answers, pairs = answers_needed(preference), strategies * (strategies - 1) // 2
    return answers, -(-answers * pairs // (each - CHECKS))
