"""Where everything lies. A run is one domain, order, strategy and seed: objects/0/merge_init/0."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from stages.core.params import Params
from stages.core.strategy import chosen
from stages.runtime.faults import ConfigFault, nearest

ROOT = Path("runs")
BASE = "base"  # the place of the base model among the strategies of an order


@dataclass(frozen=True)
class TaskSequence:
    """One domain in one order: what all strategies and seeds share."""

    study: str
    domain: str
    order: str

    @property
    def folder(self) -> Path:
        return ROOT / self.study / self.domain / self.order

    def data(self, index: str) -> Path:
        return self.folder / "data" / index

    @property
    def base(self) -> Path:
        """Where the pictures and scores of the base model lie, before any task."""
        return self.folder / BASE


@dataclass(frozen=True)
class Run:
    """One sequence learnt with one strategy and seed."""

    sequence: TaskSequence
    strategy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.sequence.domain}/{self.sequence.order}/{self.strategy}/{self.seed}"

    def at(self, index: str) -> Path:
        return self.sequence.folder / self.strategy / str(self.seed) / index


def sequences(params: Params) -> list[TaskSequence]:
    return [TaskSequence(params.study, domain, order) for domain, order in product(params.domains, params.orders)]


def runs(params: Params) -> list[Run]:
    return [
        Run(s, strategy, seed) for s in sequences(params) for strategy, seed in product(params.strategies, params.seeds)
    ]


def find_sequence(params: Params, key: str) -> TaskSequence:
    """
    Raises:
        ConfigFault: params.yaml has no such sequence.
    """
    known = {f"{s.domain}/{s.order}": s for s in sequences(params)}
    if key not in known:
        raise ConfigFault(f"there is no sequence '{key}' in params.yaml. {nearest(key, known)}")
    return known[key]


def find_run(params: Params, key: str) -> Run:
    """
    Raises:
        ConfigFault: params.yaml has no such run.
    """
    known = {str(run): run for run in runs(params)}
    if key not in known:
        raise ConfigFault(f"there is no run '{key}' in params.yaml. {nearest(key, known)}")
    return known[key]


def before(index: str) -> str:
    """The position before this one: 00 before 01."""
    return f"{int(index) - 1:02d}"


def provenance(params: Params, run: Run | TaskSequence) -> dict[str, Any]:
    """What the manifests of a run's folders have in common; for a sequence, those of its base model."""
    sequence = run.sequence if isinstance(run, Run) else run
    facts: dict[str, Any] = {
        "study": params.study,
        "domain": sequence.domain,
        "order": sequence.order,
        "family": params.base.name,
        "base": params.family.fingerprint,
    }
    if isinstance(run, Run):
        kind, strategy = chosen(run.strategy, params.strategy.get(run.strategy, {}))
        named = {"name": run.strategy} | ({"is": kind} if kind != run.strategy else {})
        facts |= {"strategy": named | {"options": strategy.model_dump(mode="json")}, "seed": run.seed}
    return facts
