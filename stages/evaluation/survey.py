"""The choices of people: their files, read and checked.

Strategies are placed on one scale by the model of Bradley and Terry (1952): the log-odds that a picture of strategy b
is chosen over one of a is theta_b - theta_a. Raters differ in how much they favour a side, so that each has an effect
of their own, drawn towards zero. Agreement between raters is Krippendorff's alpha for nominal data (1 full, 0 that of
chance). A metric agrees with people where the picture that most of them chose has the higher score.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from stages.files.writing import write_file
from stages.runtime.faults import ConfigFault, InputFault
from stages.runtime.strict import Strict

ROOT = Path("data/answers")  # a folder per study: its key, and a file per rater
KEY = "key.json"
LARGEST = 4 << 20  # bytes of a file of answers
CAUGHT = 0.75  # of the comparisons with a known answer, a rater must get so many right to be counted


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
        write_file(target, content)
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
