"""Sends losses to TensorBoard or Weights & Biases, through accelerate."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.params import Params
from stages.core.runs import Run
from stages.training.distributed import process_group
from stages.training.loop import Losses, Observer

log = logging.getLogger("palimpsest")
FOLDER = Path("trackers")  # ignored by git and DVC


@contextmanager
def tracking(params: Params, run: Run, index: str) -> Iterator[Observer | None]:
    """Opens the tracker of one task, if `watch.tracker` names one.

    Args:
        params: of the study.
        run: the run that the task belongs to.
        index: of the task: 01, 02, ...

    Yields:
        The tracker; None if none is configured, if it cannot be opened (a warning) or in processes that do not lead.
    """
    accelerator = _open(params, run, index) if process_group().leads and params.watch.tracker else None
    try:
        yield Tracker(accelerator) if accelerator else None
    finally:
        if accelerator:
            try:
                accelerator.end_training()
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
    except Exception as error:  # not installed, no account, no network
        log.warning("watch.tracker: %s: %s. Training continues without it.", params.watch.tracker, error)
        return None
    return accelerator


class Tracker:
    """Logs each loss once."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator, self.logged = accelerator, 0

    def __call__(self, step: int, losses: Losses) -> None:
        for at in range(self.logged, len(losses.loss)):
            values = {"loss": losses.loss[at], "gradient_norm": losses.gradient_norm[at]}
            self.accelerator.log(values, step=at + 1)
        self.logged = len(losses.loss)
