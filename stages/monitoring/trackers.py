"""Losses on their way to TensorBoard or Weights & Biases, through accelerate."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.params import Params
from stages.core.runs import Run
from stages.training.distributed import team
from stages.training.loop import Losses, Observer

log = logging.getLogger("palimpsest")
FOLDER = Path("trackers")  # kept out of git and of DVC


@contextmanager
def tracking(params: Params, run: Run, index: str) -> Iterator[Observer | None]:
    """Who is to be told the losses of one task, if `watch.tracker` asks for someone; a missing one costs a warning."""
    opened = _open(params, run, index) if team().leads and params.watch.tracker else None
    try:
        yield Tracker(opened) if opened else None
    finally:
        if opened:
            try:
                opened.end_training()
            except Exception as error:
                log.warning("tracker: %s", error)


def _open(params: Params, run: Run, index: str) -> Any:
    from accelerate import Accelerator

    name = f"{run}/{index}"
    project = FOLDER / params.study / name
    try:
        project.mkdir(parents=True, exist_ok=True)
        accelerator = Accelerator(log_with=params.watch.tracker, project_dir=project)
        accelerator.init_trackers(params.study, init_kwargs={"wandb": {"name": name, "dir": str(project)}})
        if not accelerator.trackers:
            raise ModuleNotFoundError("it is not installed")
    except Exception as error:  # nor an account, or a network
        log.warning("watch.tracker: %s: %s. Training goes on without.", params.watch.tracker, error)
        return None
    return accelerator


class Tracker:
    """Passes on what is new of the losses."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator, self.told = accelerator, 0

    def __call__(self, step: int, losses: Losses) -> None:
        for at in range(self.told, len(losses.loss)):
            values = {"loss": losses.loss[at], "gradient_norm": losses.gradient_norm[at]}
            self.accelerator.log(values, step=at + 1)
        self.told = len(losses.loss)
