"""The answers of people: their files, read and checked.

An answer is one of two pictures, or "can't tell". Each rater gets CHECKS trials with a known answer, which is the left
picture in half of them. Clicking without looking, on whatever side, passes them in at most one of 20 cases. The page
accepts no answer within the first MINIMUM seconds, so that no second click of a double click is an answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from stages.files.strict_json import read_json
from stages.files.writing import write_file
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.strict import Strict, explain

ROOT = Path("data/answers")  # a folder per study: its key, and a file per rater
KEY = "key.json"
LARGEST = 4.0  # megabytes of a file of answers
CHECKS = 8  # trials with a known answer, for each rater
MINIMUM = 0.8  # seconds before an answer is accepted
BLIND = 0.05  # the largest chance with which a rater who does not look may pass


class Answer(Strict):
    """One choice of a rater."""

    comparison: str = Field(pattern=r"^c\d{3,}$")
    question: Literal["same", "text"]
    left: Literal[0, 1]  # which of the two pictures was on the left
    chosen: Literal[0, 1] | None  # None: can't tell
    seconds: float = Field(ge=MINIMUM)


class Answers(Strict):
    """A rater's file, as the page saves it."""

    kind: Literal["palimpsest-answers"]
    schema_: Literal[2] = Field(alias="schema")
    page: str = Field(pattern=r"^[\w-]{1,64}$")
    rater: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    answers: tuple[Answer, ...]


class Shown(Strict):
    """What the key says of one comparison: two strategies and the metrics' scores of their pictures, or a check."""

    model_config = ConfigDict(extra="allow", strict=False)

    catch: bool = False  # an attention check
    first: str = ""
    second: str = ""
    scores: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Shown:
        if not self.catch and not (self.first and self.second and self.scores):
            raise ValueError("needs first, second and scores, or catch")
        return self


class Key(Strict):
    """The key of a survey."""

    model_config = ConfigDict(extra="allow")

    page: str
    study: str
    comparisons: dict[str, Shown]

    @model_validator(mode="after")
    def _same_metrics(self) -> Key:
        if len({frozenset(shown.scores) for shown in self.comparisons.values() if not shown.catch}) > 1:
            raise ValueError("not all comparisons have scores of the same metrics")
        return self


@dataclass(frozen=True)
class Choice:
    """One answer about the pictures of two strategies."""

    rater: str
    comparison: str
    question: str
    first: str
    second: str
    chosen: float  # 0: the picture of the first, 1: of the second, 0.5: can't tell
    left: int


def read_key(folder: Path) -> dict[str, Any]:
    """The key of a study: which strategies each comparison shows.

    Args:
        folder: the folder of the study's answers.

    Raises:
        InputFault: the key is missing or not valid.
    """
    path = folder / KEY
    try:
        key = Key.model_validate(read_json(path, LARGEST))
    except InputFault as fault:
        raise InputFault(f"{fault} `palimpsest study make` writes the key with the page.") from None
    except ValidationError as error:
        reason = explain(error, Key)
        raise InputFault(f"{path}: not the key of a survey: {reason} `palimpsest study make` writes one.") from None
    return key.model_dump(exclude_unset=True)


def read_answers(path: Path, key: Mapping[str, Any]) -> Answers:
    """Reads one rater's file.

    Raises:
        InputFault: the file is not a file of answers, is damaged, or belongs to another page.
    """
    try:
        answers = Answers.model_validate_json(json.dumps(read_json(path, LARGEST)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputFault(f"{path}: is not a file of answers: {where}: {first['msg']}.") from None
    if answers.page != key["page"]:
        raise InputFault(f"{path}: belongs to page {answers.page}, the study's page is {key['page']}.")
    asked = Counter((answer.comparison, answer.question) for answer in answers.answers)
    unknown = [name for name, _ in asked if name not in key["comparisons"]]
    if unknown or max(asked.values(), default=0) > 1:
        what = f"comparison {unknown[0]} does not exist" if unknown else "a comparison is answered twice"
        raise InputFault(f"{path}: {what}. The file was changed after it was saved.")
    return answers


def import_answers(files: Sequence[Path], folder: Path) -> int:
    """Copies raters' files into the folder of the key, each under its rater's number.

    Returns:
        How many of them are new.

    Raises:
        InputFault: files are not valid; all of those are listed, and no file is imported.
    """
    key, faults = read_key(folder), list[str]()
    fresh: dict[Path, bytes] = {}
    for path in files:
        try:
            answers = read_answers(path, key)
        except InputFault as fault:
            faults.append(str(fault))
            continue
        target, content = folder / f"{answers.rater[:16]}.json", path.read_bytes()
        if target.exists() and target.read_bytes() != content:
            faults.append(f"{path}: other answers of rater {answers.rater[:8]} are already stored in {target}.")
        elif fresh.get(target, content) != content:
            faults.append(f"{path}: other answers of rater {answers.rater[:8]} than in a file before it. Remove one.")
        elif not target.exists():
            fresh[target] = content
    if faults:
        raise InputFault("\n".join(faults))
    for target, content in fresh.items():
        write_file(target, content)
    return len(fresh)


def refuse_another_page(folder: Path, key: Mapping[str, Any]) -> None:
    """Refuses to overwrite the key of another page while its answers are in the folder.

    Raises:
        ConfigFault: the folder holds answers to another page, which need its key.
    """
    if list(answers_in(folder)) and read_key(folder)["page"] != key["page"]:
        raise ConfigFault(f"{folder}: holds answers to another page. Move the folder away to start another study.")


def answers_in(folder: Path) -> list[Path]:
    """The raters' files in a folder, sorted."""
    return sorted(path for path in folder.glob("*.json") if path.name != KEY)


def attentive(answers: Answers, key: Mapping[str, Any]) -> bool:
    """Whether a rater passed the trials with a known answer; the first picture is always the right one."""
    passed = [answer.chosen == 0 for answer in answers.answers if key["comparisons"][answer.comparison].get("catch")]
    return sum(passed) >= right_answers(len(passed))


def right_answers(checks: int) -> int:
    """How many of the known answers must be right, so that guessing passes at most once in 20 cases.

    More than there are if that is impossible.
    """
    ways = [comb(checks, right) for right in range(checks + 1)]
    return next((right for right in range(checks + 1) if sum(ways[right:]) <= BLIND * 2**checks), checks + 1)


def choices(all_answers: Iterable[Answers], key: Mapping[str, Any]) -> list[Choice]:
    """The answers about strategies of all raters who passed the trials with a known answer."""
    made = []
    for answers in all_answers:
        if not attentive(answers, key):
            continue
        for answer in answers.answers:
            facts = key["comparisons"][answer.comparison]
            if not facts.get("catch"):
                both = (facts["first"], facts["second"])
                chosen = 0.5 if answer.chosen is None else float(answer.chosen)
                made.append(Choice(answers.rater, answer.comparison, answer.question, *both, chosen, answer.left))
    return made
