"""Runs and their folders. A run is one domain, order, strategy and seed: objects/0/merge_init/0."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from stages.core.params import Params
from stages.runtime import instruction_set
from stages.runtime.faults import ConfigFault, nearest

ROOT = Path("runs")
BASE = "base"  # the folder of the base model, beside those of the strategies
CODE = "strategy.json"  # in a run's folder of position 00: the hashes of its strategy's code
RESPONSES = "responses.safetensors"  # in a folder of images: the model's predictions, if sample.responses asks for them


@dataclass(frozen=True)
class TaskSequence:
    """One domain in one order. All strategies and seeds share its data."""

    study: str
    domain: str
    order: str

    def __str__(self) -> str:
        return f"{self.domain}/{self.order}"

    @property
    def sequence(self) -> TaskSequence:
        """Itself, as a run has one: pictures and scores are those of a run or, of the base model, of a sequence."""
        return self

    @property
    def folder(self) -> Path:
        """The folder of everything in this sequence."""
        return ROOT / self.study / self.domain / self.order

    def data(self, index: str) -> Path:
        """Returns the folder of the prepared pictures at a position."""
        return self.folder / "data" / index

    @property
    def base(self) -> Path:
        """The folder of the base model's pictures and scores, before any task."""
        return self.folder / BASE


@dataclass(frozen=True)
class Run:
    """One sequence learned with one strategy and seed."""

    sequence: TaskSequence
    strategy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.sequence}/{self.strategy}/{self.seed}"

    @property
    def file_name(self) -> str:
        """Its name for a file: objects-0-merge_init-0."""
        return str(self).replace("/", "-")

    def at(self, index: str) -> Path:
        """Returns the folder of this run at a position: adapter, state, images and scores."""
        return self.sequence.folder / self.strategy / str(self.seed) / index


def sequences(params: Params) -> list[TaskSequence]:
    """Lists the study's sequences: every domain in every order."""
    return [TaskSequence(params.study, domain, order) for domain, order in product(params.domains, params.orders)]


def runs(params: Params) -> list[Run]:
    """Lists the study's runs: every sequence with every strategy and seed."""
    return [
        Run(s, strategy, seed) for s in sequences(params) for strategy, seed in product(params.strategies, params.seeds)
    ]


def find_sequence(params: Params, key: str) -> TaskSequence:
    """Returns the sequence that a key such as "objects/0" names.

    Raises:
        ConfigFault: params.yaml has no such sequence.
    """
    by_key = {str(sequence): sequence for sequence in sequences(params)}
    if key not in by_key:
        raise ConfigFault(f"there is no sequence '{key}' in params.yaml. {nearest(key, by_key)}")
    return by_key[key]


def find_run(params: Params, key: str) -> Run:
    """Returns the run that a key such as "objects/0/naive/0" names.

    Raises:
        ConfigFault: params.yaml has no such run.
    """
    by_key = {str(run): run for run in runs(params)}
    if key not in by_key:
        raise ConfigFault(f"there is no run '{key}' in params.yaml. {nearest(key, by_key)}")
    return by_key[key]


def before(index: str) -> str:
    """Returns the position before this one: "00" for "01"."""
    return f"{int(index) - 1:02d}"


def provenance(params: Params, run: Run | TaskSequence) -> dict[str, Any]:
    """Returns the facts that all manifests of a run record; for a sequence, those of its base model."""
    facts: dict[str, Any] = {
        "study": params.study,
        "domain": run.sequence.domain,
        "order": run.sequence.order,
        "family": params.base.name,
        "base": params.family.fingerprint,
        **instruction_set.provenance(),
    }
    if isinstance(run, Run):
        kind, strategy = params.plug_in(run.strategy)
        named = {"name": run.strategy} | ({"is": kind} if kind != run.strategy else {})
        facts |= {"strategy": named | {"options": strategy.model_dump(mode="json")}, "seed": run.seed}
    return facts
