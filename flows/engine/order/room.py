"""How many stages run at a time: one per slot and, on GPUs, a second one where the memory has room for two.

A stage leaves its GPU idle while it loads, hashes and writes. A second one, as the next training beside the sampling of
the state before, fills these gaps. Not enough memory would change results, since a batch is then computed in parts: so
a second stage starts only after every kind of stage in the plan has run, here or earlier with the same parameters, and
if twice the largest of them fits.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.graph.stage_names import StageName
from stages.files.writing import write_file
from stages.tools.forecasting.workload import PART

if TYPE_CHECKING:
    from flows.engine.order.slots import Slots

PEAKS = Path(".cache", "flow", "memory.json")
SHARE = 0.8  # of the memory that was free before the run
CONTEXT = 1 << 30  # bytes of a process on a GPU beside torch's tensors: CUDA, libraries, compiled kernels


def kind_of(name: str) -> str | None:
    """Stages of one kind need about the same memory: their verb, their strategy, and whether it is the first task,
    before which nothing is rehearsed. None if they need none of a GPU."""
    stage = StageName.parse(name)
    if stage.verb not in PART:
        return None
    return f"{stage.verb} {stage.strategy or 'base'} {'later' if stage.task else 'first'}"


class Room:
    """Decides how many stages run at a time, and measures what they cost each other.

    Args:
        slots: of the run.
        names: the stages that will run.
        peaks: peak bytes of a worker by kind of stage, from earlier runs.
    """

    def __init__(self, slots: Slots, names: Collection[str] = (), peaks: Mapping[str, int] | None = None) -> None:
        self.slots, self.peaks = slots, dict(peaks or {})
        self.kinds = {kind for kind in map(kind_of, names) if kind} if slots.free else set()
        self._running, self._lost, self._at, self._lock = 0, 0.0, time.monotonic(), threading.Lock()

    @property
    def stages(self) -> int:
        """Stages at a time."""
        if not self.kinds or not self.kinds <= self.peaks.keys():
            return self.slots.jobs
        each = max(self.peaks[kind] for kind in self.kinds) + CONTEXT
        per_gpu = self.slots.workers // self.slots.jobs
        return self.slots.workers if per_gpu * each <= SHARE * min(self.slots.free) else self.slots.jobs

    def close(self) -> None:
        """Allows no second stage on any GPU."""
        self.kinds = set()

    def note(self, name: str, peak: int) -> None:
        """Records the peak bytes of a worker that has run a stage."""
        if (kind := kind_of(name)) and peak:
            self.peaks[kind] = max(peak, self.peaks.get(kind, 0))

    def lost(self, more: int) -> float:
        """Counts stages that start, or end if `more` is negative.

        Returns:
            Seconds that a stage which ran all the time has lost so far to others on its GPU; 0 while none shares one.
        """
        if not self.slots.free:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._lost += (now - self._at) * (1 - min(1.0, self.slots.jobs / max(self._running, 1)))
            self._at, self._running = now, self._running + more
            return self._lost


def saved_peaks(settings: Mapping[str, str]) -> dict[str, int]:
    """The peaks of earlier runs by kind of stage.

    Args:
        settings: for each part of a study, a digest of the parameters that it depends on.
    """
    try:
        saved = json.loads(PEAKS.read_text("utf-8"))
        return {kind: int(peak) for kind, (of, peak) in saved.items() if of == _settings_of(kind, settings)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save_peaks(settings: Mapping[str, str], peaks: Mapping[str, int]) -> None:
    """Saves the peaks for later runs with these parameters."""
    if peaks:
        saved = {kind: [_settings_of(kind, settings), peak] for kind, peak in peaks.items()}
        write_file(PEAKS, json.dumps(saved, indent=1), durable=False)


def _settings_of(kind: str, settings: Mapping[str, str]) -> str | None:
    return settings.get(PART.get(kind.split(" ")[0], ""))
