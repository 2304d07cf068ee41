"""A study with people: blind two-way choices between the pictures of two strategies, as one page that works offline.

The page shows numbered pictures and no name of a strategy; the key that identifies them stays with the study. A
comparison shows two strategies with the same concept, prompt and noise after the last task, and asks two questions:
which picture shows the concept of these photos, and which one follows the text. Attention checks, which have a known
answer, are mixed in to detect raters who do not look.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from stages.core.params import Params
from stages.core.runs import Run, TaskSequence
from stages.evaluation.results import OWN, Results, load
from stages.files import artifact
from stages.files.pictures import open_picture
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import seed

TEMPLATES = Path(__file__).parent / "page" / "templates"
SHOWN = 512  # pixels: larger pictures are scaled down to this, so that the page stays small
REFERENCES = 4  # photos shown with a comparison
CHECK_EVERY = 8  # one comparison in so many is an attention check


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

    def add_attention_check(self, comparison: Comparison, other: int) -> None:
        """Adds a choice between a photo of the concept, which is right, and one of the concept at position `other`."""
        concept, references = self._concept(comparison.domain, comparison.order, comparison.task)
        _, wrong = self._concept(comparison.domain, comparison.order, other)
        self._append(concept, references[:-1] or references, [references[-1], wrong[0]], None, {"catch": True})

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
        self.trials.append({"id": name, "references": references, "pictures": both, "asked": asked})
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
            each: comparisons shown to one rater, attention checks included.
        """
        facts = {"study": self.params.study, "each": each, "pictures": self.pictures, "trials": self.trials}
        digest = artifact.digest(facts)[:16]
        environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
        template = environment.get_template("people.html")
        script = (TEMPLATES / "people.js").read_text("utf-8")
        allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        page = template.render(facts={**facts, "page": digest}, study=self.params.study, script=script, allowed=allowed)
        return page, {"page": digest, "study": self.params.study, "comparisons": self.key}


def make(params: Params, count: int, each: int) -> tuple[str, dict[str, Any]]:
    """Makes the page for raters and its key.

    Args:
        params: the parameters of the study.
        count: comparisons per domain, without attention checks.
        each: comparisons shown to one rater.

    Raises:
        ConfigFault: the study has only one strategy.
        InputFault: the study is not complete.
    """
    domains = [load(params, domain) for domain in params.domains]
    page = Page(params)
    for number, comparison in enumerate(choose(params, domains, count)):
        page.add(comparison)
        if number % CHECK_EVERY == CHECK_EVERY // 2 and len(params.tasks) > 1:
            page.add_attention_check(comparison, comparison.task % len(params.tasks) + 1)
    return page.render(min(each, len(page.trials)))


def needed(preference: float, strategies: int, each: int) -> tuple[int, int]:
    """How many choices and raters a study needs.

    Args:
        preference: the probability that the better of two strategies is chosen.
        strategies: how many strategies are compared.
        each: comparisons shown to one rater, attention checks included.

    Returns:
        The choices per pair of strategies, and the raters for all pairs.

    Raises:
        ConfigFault: the preference does not lie between 0.5 and 1.
    """
    choices, pairs = choices_needed(preference), strategies * (strategies - 1) // 2
    return choices, -(-choices * pairs // (each - each // CHECK_EVERY))


def choices_needed(preference: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many independent choices between two strategies show that one is preferred with this probability.

    The sample size of a two-sided test of a proportion against one half, by the normal approximation (Fleiss 1981).

    Raises:
        ConfigFault: the preference does not lie between 0.5 and 1.
    """
    if not 0.5 < preference < 1:
        raise ConfigFault(f"--preference {preference:g}: must lie between 0.5 and 1, for example 0.6.")
    a, b = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)
    half, spread = 0.5, math.sqrt(preference * (1 - preference))
    return math.ceil(((a * half + b * spread) / (preference - half)) ** 2)
