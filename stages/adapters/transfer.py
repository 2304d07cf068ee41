"""Copies of many matrices between host and GPU, beside what is computed from them.

A copy from or to ordinary memory waits for all work before it, at a fraction of the bus's speed. So threads copy
between ordinary memory and a few pinned buffers, some matrices ahead of the GPU or behind it. Values do not change.
Without a GPU nothing is copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from stages.runtime.device import worker_threads


class Event(Protocol):
    """A point in the work of the GPU."""

    def synchronize(self) -> None:
        """Waits until the GPU has reached it."""


class Buffer:
    """Pinned memory for one matrix at a time."""

    def __init__(self) -> None:
        self._bytes: Tensor | None = None
        self.read: Event | None = None  # when the GPU has read what it holds

    def like(self, value: Tensor) -> Tensor:
        """The memory as a tensor of the same shape and number format."""
        size = value.numel() * value.element_size()
        if self._bytes is None or len(self._bytes) < size:
            self._bytes = _pinned(size)
        return self._bytes[:size].view(value.dtype).view(value.shape)

    def filled(self, value: Tensor) -> Tensor:
        """The memory with a copy of the tensor, once what it held before has been read."""
        if self.read:
            self.read.synchronize()
        return self.like(value).copy_(value)


def to_device(values: Iterable[Tensor], on: torch.device) -> Iterator[Tensor]:
    """The tensors on the device, one after another; the next ones are copied meanwhile."""
    if not _has_own_memory(on):
        yield from (value.to(on) for value in values)
        return
    remaining, free = iter(values), deque(Buffer() for _ in range(2 * worker_threads()))
    filling: deque[tuple[Buffer, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(worker_threads(), "upload") as pool:
        while True:
            while free and (value := next(remaining, None)) is not None:
                buffer = free.popleft()
                filling.append((buffer, pool.submit(buffer.filled, value)))
            if not filling:
                return
            buffer, filled = filling.popleft()
            copy = _upload(filled.result(), on)
            buffer.read = _event()
            free.append(buffer)
            yield copy


def to_host(results: Iterable[tuple[str, Tensor]], on: torch.device) -> dict[str, Tensor]:
    """The tensors, computed one after another on a device, in ordinary memory by name; the next one is computed while
    the last ones are copied."""
    if not _has_own_memory(on):
        return {name: value.cpu() for name, value in results}
    buffers = [Buffer() for _ in range(2 * worker_threads())]
    copies: list[tuple[str, Future[Tensor]]] = []
    with ThreadPoolExecutor(worker_threads(), "download") as pool:
        for number, (name, value) in enumerate(results):
            if number >= len(buffers):  # the buffer's last content must have been copied
                copies[number - len(buffers)][1].result()
            buffer = buffers[number % len(buffers)].like(value)
            _download(value, buffer)
            copies.append((name, pool.submit(_copied, buffer, _event())))
        return {name: copy.result() for name, copy in copies}


def _copied(buffer: Tensor, filled: Event) -> Tensor:
    filled.synchronize()
    return buffer.clone()


def _has_own_memory(on: torch.device) -> bool:
    return on.type == "cuda"


def _pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _upload(buffer: Tensor, on: torch.device) -> Tensor:
    return buffer.to(on, non_blocking=True)


def _download(value: Tensor, buffer: Tensor) -> None:
    buffer.copy_(value, non_blocking=True)


def _event() -> Event:
    event: Event = torch.cuda.current_stream().record_event()
    return event
