"""DVC's names of stages: train@objects-0-merge_init-0-task2 trains task 03 of the run objects/0/merge_init/0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

NAME = re.compile(
    r"(?P<verb>\w+)(@(?P<domain>\w+)-(?P<order>\w+)(-(?P<strategy>\w+)-(?P<seed>-?\d+))?(-task(?P<task>\d+))?)?"
)


@dataclass(frozen=True)
class StageName:
    """A stage's name, split into parts; a part that it does not have is None."""

    verb: str
    domain: str | None = None
    order: str | None = None
    strategy: str | None = None
    seed: str | None = None
    task: int | None = None  # index into `tasks` of params.yaml, from 0

    @staticmethod
    @cache
    def parse(name: str) -> StageName:
        """Parses a name as DVC prints it.

        Raises:
            ValueError: it does not have the form of a stage's name.
        """
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"'{name}' is not the name of a stage")
        parts = match.groupdict()
        task = parts.pop("task")
        return StageName(**parts, task=None if task is None else int(task))

    def __str__(self) -> str:
        task = None if self.task is None else f"task{self.task}"
        key = "-".join(part for part in (self.domain, self.order, self.strategy, self.seed, task) if part is not None)
        return f"{self.verb}@{key}" if key else self.verb

    @property
    def kind(self) -> str:
        """Verb and task, for instance train-task2: stages of one kind take about the same time and disk space."""
        return self.verb if self.task is None else f"{self.verb}-task{self.task}"

    @property
    def action(self) -> str:
        """The verb in words, for instance: sample of the base."""
        return self.verb.replace("_base", " of the base")

    @property
    def title(self) -> str:
        """The name in words, for instance: objects / merge_init / order 0 / seed 0 / task 03 / train."""
        return " / ".join(text for _, text in self._parts())

    def _parts(self) -> Iterator[tuple[str, str]]:
        if self.domain is not None:
            yield "domain", self.domain
        if self.strategy is not None:
            yield "strategy", self.strategy
        if self.order is not None:
            yield "order", f"order {self.order}"
        if self.seed is not None:
            yield "seed", f"seed {self.seed}"
        if self.task is not None:
            yield "task", f"task {self.task + 1:02d}"
        yield "verb", self.action


def titles(names: Iterable[str]) -> dict[str, str]:
    """The title of each stage, without the domain, order or seed if it is the same for all of them."""
    parts = {name: list(StageName.parse(name)._parts()) for name in names}
    values: dict[str, set[str]] = {"domain": set(), "order": set(), "seed": set()}
    for listed in parts.values():
        for what, text in listed:
            if what in values:
                values[what].add(text)
    single = {what for what, texts in values.items() if len(texts) == 1}
    return {name: " / ".join(text for what, text in listed if what not in single) for name, listed in parts.items()}


def last_stages(key: str) -> set[str]:
    """The last stages of a run, or of the base model on a sequence.

    Args:
        key: DOMAIN/ORDER/STRATEGY/SEED for a run, or a strategy that has one run; DOMAIN/ORDER for the base model.

    Raises:
        ConfigFault: params.yaml has no such run or sequence.
    """
    from stages.core.params import load
    from stages.core.runs import find_sequence
    from stages.tools.exchange.source import run_named

    params = load()
    if key.count("/") == 1:
        sequence = find_sequence(params, key)
        return {str(StageName(f"{verb}_base", sequence.domain, sequence.order)) for verb in ("sample", "score")}
    run = run_named(params, key)
    parts = (run.sequence.domain, run.sequence.order, run.strategy, str(run.seed), len(params.tasks) - 1)
    return {str(StageName(verb, *parts)) for verb in ("sample", "score")}
