"""Checkpoints of one training, written in the background while it continues.

A snapshot is taken between two steps: on a CPU by copying, on a GPU by copies to pinned memory on a side stream, for
which only the device waits. Hashing and writing happen in a thread. A checkpoint is complete or does not exist, so a
kill at any time leaves the ones before it.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.files import artifact
from stages.files.tensors import load_tensors, save
from stages.runtime.faults import InputFault, first_line

log = logging.getLogger("palimpsest")
STORED = 2  # the newest, and one more in case the newest is damaged
SHARE = 0.02  # of the time of a training, at most, that goes into checkpoints


class Checkpoints:
    """The checkpoints in one folder, which only this process writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._next = 0.0  # by time.monotonic
        self._buffers: Future[dict[str, Tensor]] | None = None

    def newest(self) -> tuple[Mapping[str, Any], dict[str, Tensor]] | None:
        """Facts and tensors of the newest intact checkpoint; deletes damaged ones."""
        for checkpoint in sorted(self.folder.glob("[0-9]*"), reverse=True):
            try:
                return artifact.read(checkpoint, "checkpoint"), load_tensors(checkpoint / "training.safetensors")
            except InputFault as fault:
                log.warning("%s Resuming from the checkpoint before it.", fault)
                shutil.rmtree(checkpoint)
        return None

    @property
    def due(self) -> bool:
        """Whether the last one is written and so long ago that another keeps to `SHARE`."""
        return time.monotonic() >= self._next and (self._pending is None or self._pending.done())

    @property
    def reserved(self) -> bool:
        return self._buffers is not None

    def reserve(self, tensors: Mapping[str, Tensor]) -> None:
        """Starts to allocate pinned memory for those of these tensors that are on a GPU: a gigabyte takes most of a
        second."""
        like = {name: (value.shape, value.dtype) for name, value in tensors.items() if value.is_cuda}
        self._buffers = self._writer.submit(_pinned, like)

    def save(self, step: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Starts to write a checkpoint; the tensors may change as soon as this returns.

        Raises:
            MachineFault: the one before could not be written.
        """
        began = time.monotonic()
        self.wait()
        copied = self._copied(tensors)
        blocked = time.monotonic() - began

        def write() -> None:
            start = time.monotonic()
            ready = copied()
            with artifact.publish(self.folder / f"{step:08d}", "checkpoint", {"step": step, **facts}) as draft:
                save(ready, draft / "training.safetensors")
            for old in sorted(self.folder.glob("[0-9]*"))[:-STORED]:
                shutil.rmtree(old)
            self._next = time.monotonic() + (blocked + time.monotonic() - start) / SHARE

        self._pending = self._writer.submit(write)

    def wait(self) -> None:
        """Waits until the last checkpoint is written.

        Raises:
            MachineFault: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Waits for the last checkpoint, and frees the buffers."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._buffers = None

    def _copied(self, tensors: Mapping[str, Tensor]) -> Callable[[], Mapping[str, Tensor]]:
        """Starts to copy the tensors to the host; the function that is returned waits for the copies."""
        if not any(value.is_cuda for value in tensors.values()):
            copies = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
            return lambda: copies
        if self._buffers is None:
            self.reserve(tensors)
        assert self._buffers is not None
        buffers, stream = self._buffers.result(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            here = {n: buffers[n].copy_(v.detach(), non_blocking=True) if v.is_cuda else v for n, v in tensors.items()}
            done = stream.record_event()
        torch.cuda.current_stream().wait_event(done)  # the next step changes what is copied

        def copied() -> Mapping[str, Tensor]:
            done.synchronize()
            return here

        return copied


def _pinned(like: Mapping[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Tensor]:
    """Buffers of these shapes: ordinary memory, which is slower to copy to, if the machine has not enough to pin."""

    def empty(pin: bool) -> dict[str, Tensor]:
        return {name: torch.empty(shape, dtype=dtype, pin_memory=pin) for name, (shape, dtype) in like.items()}

    try:
        return empty(True)
    except RuntimeError as error:
        log.warning("checkpoints keep the training waiting: no memory could be pinned (%s)", first_line(error))
        return empty(False)
