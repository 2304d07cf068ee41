"""What people chose: their files read and checked, and what follows from them.

Strategies are placed on one scale by the model of Bradley and Terry (1952): the log-odds that a picture of strategy b
is chosen over one of a is theta_b - theta_a. Raters differ in how much they favour a side, so that each has an effect
of their own, drawn towards zero. Agreement between raters is Krippendorff's alpha for nominal data (1 full, 0 that of
chance). A metric agrees with people where the picture that most of them chose has the higher score.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from .artifact import put
from .faults import ConfigFault, InputFault
from .statistics import Interval, interval
from .strict import Strict
from .transfer import Array

ROOT = Path("data/answers")  # a folder per study: its key, and a file per rater
KEY = "key.json"
QUESTIONS = ("same", "text")
LARGEST = 4 << 20  # bytes of a file of answers
CAUGHT = 0.75  # of the comparisons with a known answer, a rater must get so many right to be counted
SIDE_SPREAD = 1.0  # standard deviation of the raters' preference for a side, in log-odds


class Answer(Strict):
    comparison: str = Field(pattern=r"^c\d{3,}$")
    question: Literal["same", "text"]
    left: Literal[0, 1]  # which of the two pictures stood on the left
    chosen: Literal[0, 1]
    seconds: float = Field(ge=0)


class Answers(Strict):
    """A rater's file, as the page saves it."""

    kind: Literal["palimpsest-answers"]
    schema_: Literal[1] = Field(alias="schema")
    page: str
    rater: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Choice:
    """One choice between the pictures of two strategies."""

    rater: str
    comparison: str
    question: str
    first: str
    second: str
    chosen: int
    left: int


def read_key(folder: Path) -> dict[str, Any]:
    """
    Raises:
        InputFault: there is no key, or it is not one.
    """
    path = folder / KEY
    try:
        key: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return {"page": key["page"], "study": key["study"], "comparisons": dict(key["comparisons"])}
    except OSError:
        raise InputFault(f"{path}: there is no key. `palimpsest study make` makes it with the page.") from None
    except (ValueError, KeyError, TypeError):
        raise InputFault(f"{path}: not the key of a study with people.") from None


def read_answers(path: Path, key: Mapping[str, Any]) -> Answers:
    """One rater's file.

    Raises:
        InputFault: it is not one, is damaged, or belongs to another page.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputFault(f"{path}: {path.stat().st_size / 1e6:.0f} MB is too large for a file of answers.")
        answers = Answers.model_validate_json(path.read_text("utf-8"))
    except OSError as error:
        raise InputFault(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputFault(f"{path}: not a text file.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputFault(f"{path}: not a file of answers: {where}: {first['msg']}.") from None
    if answers.page != key["page"]:
        raise InputFault(f"{path}: belongs to page {answers.page}, the study's page is {key['page']}.")
    asked = Counter((answer.comparison, answer.question) for answer in answers.answers)
    strange = [name for name, _ in asked if name not in key["comparisons"]]
    if strange or max(asked.values(), default=0) > 1:
        what = f"no comparison {strange[0]}" if strange else "a comparison is answered twice"
        raise InputFault(f"{path}: {what}. The file has been changed since it was saved.")
    return answers


def keep(files: Sequence[Path], folder: Path) -> int:
    """Puts raters' files beside the key, each under its rater's number, and returns how many are new.

    Raises:
        InputFault: some cannot be used; all of them are listed, and none is kept.
    """
    key, complaints, fresh = read_key(folder), [], {}
    for path in files:
        try:
            answers = read_answers(path, key)
        except InputFault as fault:
            complaints.append(str(fault))
            continue
        target, content = folder / f"{answers.rater[:16]}.json", path.read_bytes()
        if target.exists() and target.read_bytes() != content:
            complaints.append(f"{path}: other answers of rater {answers.rater[:8]} are kept already, in {target}.")
        elif not target.exists():
            fresh[target] = content
    if complaints:
        raise InputFault("\n".join(complaints))
    for target, content in fresh.items():
        put(target, [content])
    return len(fresh)


def refuse_another_page(folder: Path, key: Mapping[str, Any]) -> None:
    """
    Raises:
        ConfigFault: answers to another page are kept in the folder, which its key is needed for.
    """
    if list(answers_in(folder)) and read_key(folder)["page"] != key["page"]:
        raise ConfigFault(f"{folder}: holds answers to another page. Move the folder away to ask something else.")


def answers_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.name != KEY)


def attentive(answers: Answers, key: Mapping[str, Any]) -> bool:
    """Whether enough of the comparisons with a known answer are right: the first picture is the right one."""
    caught = [answer.chosen == 0 for answer in answers.answers if key["comparisons"][answer.comparison].get("catch")]
    return not caught or sum(caught) >= CAUGHT * len(caught)


def choices(all_answers: Iterable[Answers], key: Mapping[str, Any]) -> list[Choice]:
    """What the attentive chose between strategies."""
    found = []
    for answers in all_answers:
        if not attentive(answers, key):
            continue
        for answer in answers.answers:
            facts = key["comparisons"][answer.comparison]
            if not facts.get("catch"):
                both = (facts["first"], facts["second"])
                found.append(
                    Choice(answers.rater, answer.comparison, answer.question, *both, answer.chosen, answer.left)
                )
    return found


def bradley_terry(found: Sequence[Choice], strategies: Sequence[str]) -> Array:
    """The scale of the strategies, [strategy], which sums to zero: log-odds of being chosen.

    Maximum a posteriori by Newton's method: raters' sides have a normal prior of SIDE_SPREAD, strategies a very wide
    one, so that one that always wins has a finite place.
    """
    place = {name: i for i, name in enumerate(strategies)}
    raters = {name: len(place) + i for i, name in enumerate(dict.fromkeys(c.rater for c in found))}
    design = np.zeros((len(found), len(place) + len(raters)))
    for row, choice in zip(design, found, strict=True):
        row[place[choice.second]] += 1
        row[place[choice.first]] -= 1
        row[raters[choice.rater]] = 1.0 if choice.left == 1 else -1.0
    chosen = np.array([float(choice.chosen) for choice in found])
    prior = np.array([0.01] * len(place) + [SIDE_SPREAD**-2] * len(raters))
    at = np.zeros(design.shape[1])
    for _ in range(100):
        share = 1 / (1 + np.exp(-design @ at))
        slope = design.T @ (chosen - share) - prior * at
        curve = (design * (share * (1 - share))[:, None]).T @ design + np.diag(prior)
        step = np.linalg.solve(curve, slope)
        at = at + step
        if np.abs(step).max() < 1e-10:
            break
    scale = at[: len(place)]
    return np.asarray(scale - scale.mean())


def alpha(units: Iterable[Sequence[int]]) -> float:
    """Krippendorff's alpha for nominal data; each unit holds the answers that it got. NaN where nothing is shared.

    alpha = 1 - (n - 1) (n - sum_c o_cc) / (n^2 - sum_c n_c^2), from the coincidences o (Krippendorff 2011).
    """
    same, totals = 0.0, Counter[int]()
    for values in units:
        if len(values) > 1:
            counts = Counter(values)
            totals.update(counts)
            same += sum(k * (k - 1) for k in counts.values()) / (len(values) - 1)
    n = sum(totals.values())
    expected = n * n - sum(k * k for k in totals.values())
    return 1 - (n - 1) * (n - same) / expected if expected else float("nan")


def majorities(found: Iterable[Choice]) -> dict[str, float]:
    """Which picture of each comparison most chose: 0, 1, or a half where they are even."""
    votes = defaultdict(list)
    for choice in found:
        votes[choice.comparison].append(choice.chosen)
    return {name: float(np.sign(np.mean(chosen) - 0.5) / 2 + 0.5) for name, chosen in votes.items()}


def agreement(found: Sequence[Choice], key: Mapping[str, Any], metric: str) -> Array:
    """Of each comparison whether the metric sides with most of the people: 1, 0, or a half where either is even."""
    sides = []
    for name, most in majorities(found).items():
        first, second = key["comparisons"][name]["scores"][metric]
        metric_says = float(np.sign(second - first) / 2 + 0.5)
        sides.append(0.5 if 0.5 in (most, metric_says) else float(most == metric_says))
    return np.array(sides)


@dataclass(frozen=True)
class Opinion:
    """What people say in answer to one question."""

    question: str
    choices: int
    scale: dict[str, Interval]  # Bradley-Terry, by strategy
    alpha: float
    metrics: dict[str, Interval]  # share of comparisons in which the metric sides with most people


@dataclass(frozen=True)
class People:
    raters: int
    left_out: int  # raters who failed the comparisons with a known answer
    opinions: list[Opinion]


def opinion(found: Sequence[Choice], key: Mapping[str, Any], question: str, draws: int, confidence: float) -> Opinion:
    """Intervals are of a bootstrap over raters for the scale, and over comparisons for the metrics."""
    mine = [choice for choice in found if choice.question == question]
    strategies = list(dict.fromkeys(name for choice in mine for name in sorted((choice.first, choice.second))))
    rng = np.random.default_rng(0)
    by_rater = defaultdict(list)
    for choice in mine:
        by_rater[choice.rater].append(choice)
    raters = sorted(by_rater)
    scales = [bradley_terry(mine, strategies)]
    for _ in range(draws):
        drawn = rng.choice(len(raters), len(raters))
        scales.append(bradley_terry([choice for r in drawn for choice in by_rater[raters[r]]], strategies))
    units = defaultdict(list)
    for choice in mine:
        units[choice.comparison].append(choice.chosen)
    metrics = {}
    for metric in sorted(next(facts["scores"] for facts in key["comparisons"].values() if "scores" in facts)):
        sides = agreement(mine, key, metric)
        rows = np.vstack([np.arange(len(sides)), rng.integers(0, len(sides), (draws, len(sides)))])
        metrics[metric] = interval(sides[rows].mean(1), confidence)
    table = np.array(scales)
    placed = {name: interval(table[:, i], confidence) for i, name in enumerate(strategies)}
    return Opinion(question, len(mine), placed, alpha(units.values()), metrics)


def people(study: str, confidence: float = 0.95, draws: int = 300) -> People | None:
    """What the answers kept for a study say; None if there are none.

    Raises:
        InputFault: a file is damaged.
    """
    folder = ROOT / study
    files = answers_in(folder)
    if not files:
        return None
    key = read_key(folder)
    answers = [read_answers(path, key) for path in files]
    found = choices(answers, key)
    asked = [question for question in QUESTIONS if any(choice.question == question for choice in found)]
    opinions = [opinion(found, key, question, draws, confidence) for question in asked]
    return People(len(answers), sum(not attentive(a, key) for a in answers), opinions)
