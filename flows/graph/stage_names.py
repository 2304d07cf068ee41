"""One parser and one printer of DVC stage names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

STAGE = re.compile(
    r"(?P<verb>\w+)(@(?P<domain>\w+)-(?P<order>\w+)(-(?P<strategy>\w+)-(?P<seed>\w+))?(-task(?P<at>\d+))?)?"
)


@dataclass(frozen=True)
class Place:
    """What a stage's name says."""

    verb: str
    domain: str | None
    order: str | None
    strategy: str | None
    at: int | None  # its position's place among the tasks, from 0


def place(stage: str) -> Place:
    found = STAGE.fullmatch(stage)
    assert found, stage
    at = found["at"]
    return Place(found["verb"], found["domain"], found["order"], found["strategy"], None if at is None else int(at))


def kind(name: str) -> str:
    """The verb and the task of a stage's name, train-task3: what stages that take the same have in common."""
    task = re.search(r"task\d+$", name)
    return "-".join(filter(None, (re.split("[@-]", name)[0], task.group() if task else "")))


def last_stages(key: str) -> set[str]:
    """Those of a run, or with DOMAIN/ORDER alone those of the base model on that sequence.

    Raises:
        ConfigFault: params.yaml has no such run or sequence.
    """
    from stages.core.params import load
    from stages.core.runs import find_run, find_sequence

    params = load()
    if key.count("/") == 1:
        sequence = find_sequence(params, key)
        return {f"{verb}_base@{sequence.domain}-{sequence.order}" for verb in ("sample", "score")}
    run = find_run(params, key)
    name = f"{run.sequence.domain}-{run.sequence.order}-{run.strategy}-{run.seed}"
    return {f"{verb}@{name}-task{len(params.tasks) - 1}" for verb in ("sample", "score")}


def title(stage: str) -> str:
    """A stage's name for people: objects / merge_init / order 0 / seed 0 / task 03 / train."""
    verb, _, key = stage.partition("@")
    words = key.split("-") if key else []
    place = re.fullmatch(r"task(\d+)", words[-1]) if words else None
    task = [f"task {int(place.group(1)) + 1:02d}"] if place else []
    rest = words[: len(words) - len(task)]
    named = rest[:1]
    if len(rest) == 4:
        named += [rest[2], f"order {rest[1]}", f"seed {rest[3]}"]
    elif len(rest) == 2:
        named += [f"order {rest[1]}"]
    return " / ".join([*named, *task, verb.replace("_base", " of the base")])


def titles(stages: Iterable[str]) -> dict[str, str]:
    """The same for all of them, without the domain, order and seed where there is but one of it."""
    whole = {stage: title(stage).split(" / ") for stage in stages}
    kinds: dict[str, set[str]] = {}
    for parts in whole.values():
        for k, part in enumerate(parts[:-1]):
            kinds.setdefault(_kind(k, part), set()).add(part)
    single = {part for kind, found in kinds.items() if kind and len(found) == 1 for part in found}
    return {stage: " / ".join(part for part in parts if part not in single) for stage, parts in whole.items()}


def _kind(place: int, part: str) -> str:
    """What a part of a title says, if it may be left out."""
    word = part.split(" ")[0]
    return "domain" if place == 0 else word if word in ("order", "seed") else ""
