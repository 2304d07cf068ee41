"""What a strategy is: a few answers about what one task passes on to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import field_validator, model_validator
from torch import Generator

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.core.penalty import Penalty
from stages.core.registry import Registry
from stages.core.rehearsal import Rehearsal
from stages.files.artifact import sha256
from stages.runtime.strict import Strict, omit_default

Regime = Literal["strict", "words", "photos"]  # what it knows: state and new adapter; also prompts; also photos
Law = Literal["fresh", "start", "first", "idle", "linear"]
LAWS: frozenset[Law] = frozenset(get_args(Law))


class Strategy(Strict, ABC):
    """Its fields are its options in params.yaml; each has a default.

    It sees the state and the new adapter, never the adapters of earlier tasks: the strict regime of the paper
    (arXiv 2410.04891, section 3) is kept by these signatures.
    """

    regime: ClassVar[Regime] = "strict"  # without rehearsal; only `PhotoStrategy` has "photos"
    trains_a: ClassVar[bool] = True  # does training change A, or B alone?
    starts_fresh: ClassVar[bool] = True  # does every task train a fresh adapter, with B zero, on the model before it?
    draws_once: ClassVar[bool] = False  # does `start` read the new draw only where there is no adapter yet?

    rehearse: Rehearsal | None = omit_default(None)  # what the model must still answer while a task is learned

    @field_validator("rehearse", mode="before")
    @classmethod
    def _as_its_own(cls, given: Any) -> Any:
        """Keys that are not given are those of the strategy's own rehearsal, if it has one."""
        own = cls.model_fields["rehearse"].default
        return {**own.model_dump(), **given} if own and isinstance(given, dict) else given

    @model_validator(mode="after")
    def _can_rehearse(self) -> Strategy:
        """Without its adapter, the model in training must be the one before the task."""
        if self.rehearse and not self.starts_fresh:
            raise ValueError("rehearse needs a strategy whose tasks train a fresh adapter on the model before them")
        return self

    def start(self, state: State, fresh: Adapter) -> Adapter:
        """The adapter at step 0. `fresh` is a new draw: A random, B zero."""
        return fresh

    def draws(self, state: State) -> bool:
        """Does `start` read the new draw? One of SDXL takes a third of a second."""
        return state.adapter is None or not self.draws_once

    def frozen(self, state: State) -> Delta | None:
        """The delta of the base that is held fixed while the adapter trains; None for none."""
        return state.delta

    def penalty(self, state: State) -> Penalty | None:
        """A term of its own in the loss while the adapter trains; None for none."""
        return None

    @abstractmethod
    def merge(self, state: State, adapter: Adapter, generator: Generator) -> State:
        """The state after the task, from the state before it and the trained adapter.

        Neither of them may be changed in place. `generator` is on the CPU and seeded for this run and task: whatever is
        random is drawn from it, so that the same state can be rebuilt from the adapters.
        """

    def memory(self, shapes: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, ...]]:
        """The shapes of its memory after any task, for modules of these shapes (out, in)."""
        return {}

    @property
    def own_draws(self) -> bool:
        """Does every task after the first need a draw of its own, whatever `train.reinit` says?"""
        return False

    @property
    def laws(self) -> frozenset[Law]:
        """What holds under these options, beside what holds for all; the tests check it.

        fresh: the first task starts from the fresh draw. start: at step 0 the model is that of the state before.
        first: after one task the model is the one that was trained. idle: a task that learns nothing leaves the model
        as it was. linear: deltas that are all c times as large give a state c times as large.
        """
        return LAWS

    @property
    def knows(self) -> Regime:
        """The regime under these options: to rehearse earlier prompts is to know them."""
        words = self.rehearse is not None and self.rehearse.prompts == "earlier" and self.regime == "strict"
        return "words" if words else self.regime


class PhotoStrategy(Strategy):
    """A strategy of regime `photos`: each task trains on the photos of all tasks so far.

    It is the only type whose training receives them; the strategy itself still sees only the state and the new adapter.
    """

    regime: ClassVar[Regime] = "photos"

    def steps(self, each: int, concepts: int) -> int:
        """The steps of a task that trains on the photos of so many concepts; `each` is train.steps."""
        return each


strategies: Registry[Strategy] = Registry("strategy", "stages.strategies")


def chosen(name: str, entry: Mapping[str, Any], where: str = "") -> tuple[str, Strategy]:
    """The plug-in and the strategy that an entry of section `strategy` stands for.

    Its keys are the strategy's options; `is` names the plug-in where the entry is a variant of one under a name of its
    own, and `train` is not for here: see `Params.training`. `where` is the key that an error names.

    Raises:
        ConfigFault: there is none of that name, or an option is unknown or out of range.
    """
    kind, options = entry.get("is", name), {key: value for key, value in entry.items() if key not in ("is", "train")}
    return kind, strategies.make(kind, options, where or f"strategy.{name}: ")


def code_of(kind: str) -> dict[str, Any]:
    """Returns the hashes of a known plug-in's code, which `start` records and training and merging depend on."""
    own, *imported = [(module, sha256(path)) for module, path in strategies.sources(kind).items()]
    return {"strategy": kind, "code": own[1]} | ({"imports": dict(imported)} if imported else {})
