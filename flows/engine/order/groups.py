"""Which stages start next, and which trainings are computed in one batch first.

Trainings of several runs that are ready at the same time, and alike, share a batch in one worker, which leaves a
checkpoint of each. Then each stage runs as always and takes its adapter from there: it keeps its own entry in dvc.lock,
its own log and its own failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from flows.graph.stage_names import StageName
from stages.runtime.environment import number
from stages.runtime.faults import ConfigFault
from stages.tools.forecasting.workload import rehearsed_rows

if TYPE_CHECKING:
    from flows.engine.order.ready import Ready
    from flows.engine.order.slots import Slots
    from stages.core.params import Params

AT_MOST = 6  # trainings in a batch on a CPU: more gain little and delay the stages that wait for the first
MODULE = "stages.tools.together.train"
SHORT = ("prepare", "start", "merge")  # stages that are worth waiting for


def limit(wanted: int | None, slots: Slots) -> int:
    """Trainings in a batch at most: as wanted, or PALIMPSEST_TOGETHER; by default several on a CPU.

    On a GPU one, because there a sum of floats depends on how many pictures are computed at a time.

    Raises:
        ConfigFault: it is negative, or the variable is not a number.
    """
    trainings = number("PALIMPSEST_TOGETHER") if wanted is None else wanted
    if trainings < 0:
        raise ConfigFault(f"--together: is {trainings}. Give the number of trainings in a batch; 1: none together.")
    return trainings or (1 if slots.devices else AT_MOST)


def alike_in(params: Params) -> Callable[[str], Hashable | None]:
    """A function of a stage's name: equal values for trainings that can share a batch, None for all other stages."""
    firsts = dict[str, str]()  # of those that train the same first adapter
    for name in params.strategies:
        rehearse = params.make_strategy(name).rehearse
        rehearsed = rehearse.model_dump_json() if rehearse and rehearse.rows_at(0) else ""
        firsts.setdefault(params.training(name).model_dump_json() + rehearsed, name)

    @cache
    def alike(name: str) -> Hashable | None:
        stage = StageName.parse(name)
        if stage.verb != "train" or params.watch.previews_every or params.watch.tracker:
            return None
        strategy, options = params.make_strategy(stage.strategy or ""), params.training(stage.strategy or "")
        if not stage.task and stage.strategy not in firsts.values():
            return None  # most strategies train the same first adapter, once
        if options.processes > 1 or options.checkpointing or options.layers == "peft":
            return None
        sizes = (options.rank, options.alpha, options.batch, options.fixed_a or not strategy.trains_a)
        return (*sizes, options.prior, rehearsed_rows(strategy, stage.task or 0))

    return alike


def command(names: Collection[str]) -> list[str]:
    """The words after `python -m` that train the tasks of these stages."""
    stages = [StageName.parse(name) for name in names]
    return [MODULE, *(f"{s.domain}/{s.order}/{s.strategy}/{s.seed}/{(s.task or 0) + 1:02d}" for s in stages)]


@dataclass
class Groups:
    """Groups trainings.

    Args:
        alike: see `alike_in`.
        limit: trainings in a batch, at most.
    """

    alike: Callable[[str], Hashable | None]
    limit: int
    started: set[str] = field(default_factory=set)  # trainings that have been in a group or were started alone

    def pick(
        self, ready: Ready, upstream: Mapping[str, Collection[str]], running: Collection[str], free: int
    ) -> list[str]:
        """Removes and returns the stages to start next; none if all should wait for a partner.

        Args:
            ready: the stages that can start.
            upstream: for each stage of the plan, the stages that it waits for.
            running: the stages that run.
            free: slots that are free.

        Returns:
            One stage, or several trainings for one batch.
        """
        deferred, chosen = list[str](), list[str]()
        while ready and not chosen:
            name = ready.pop()
            key = self.alike(name) if self.limit > 1 and name not in self.started else None
            if key is None:
                chosen = [name]
                continue
            others = list(ready)
            partners = [other for other in others if other not in self.started and self.alike(other) == key]
            if len(partners) + 1 < self.limit and running and self._more_soon(key, [*others, *running], upstream):
                deferred.append(name)
                continue
            chosen = [name, *partners][: self._size(1 + len(partners), len(others) - len(partners), free)]
            for other in chosen[1:]:
                ready.take(other)
            self.started.update(chosen)
        for name in deferred:
            ready.put_back(name)
        return chosen

    def _size(self, trainings: int, others: int, free: int) -> int:
        """How many share a batch: all, unless slots would be idle."""
        return self.limit if others >= free - 1 else min(self.limit, math.ceil(trainings / free))

    def _more_soon(self, key: Hashable, at_hand: list[str], upstream: Mapping[str, Collection[str]]) -> bool:
        """Whether another such training waits only for short stages that run or are about to."""
        short = {name for name in at_hand if StageName.parse(name).verb in SHORT}
        return any(needed and short.issuperset(needed) and self.alike(name) == key for name, needed in upstream.items())
