"""Writes the losses of the training that runs to a file, for `palimpsest watch`. They are not part of a result."""

from __future__ import annotations

import json
import time
from pathlib import Path

from stages.core.runs import Run
from stages.files.writing import write_file
from stages.training.loop import Losses

FOLDER = Path(".cache", "flow", "training")
EVERY_SECONDS = 1.0


def path_of(study: str, run: Run, index: str) -> Path:
    """The file of one task's training: JSON with `steps` in all and `loss`, those so far."""
    return FOLDER / study / str(run) / f"{index}.json"


class LiveLosses:
    """Writes the file at most once a second."""

    def __init__(self, study: str, run: Run, index: str, steps: int) -> None:
        self.path, self.steps, self.written = path_of(study, run, index), steps, 0.0

    def __call__(self, step: int, losses: Losses) -> None:
        now = time.monotonic()
        if now - self.written < EVERY_SECONDS and step < self.steps:
            return
        self.written = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"steps": self.steps, "loss": [round(loss, 6) for loss in losses.loss]}
        write_file(self.path, json.dumps(facts), durable=False)
