"""Copies of many matrices between host and GPU, beside what is computed from them.

A copy from or to ordinary memory waits for all work before it, at a fraction of the bus's speed. So threads copy
between ordinary memory and a few pinned buffers, some chunks ahead of the GPU or behind it. A chunk is many small
matrices or one large one: one task of a thread and one copy for each matrix took ten times as long as the copies.
Values do not change. Without a GPU nothing is copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from stages.runtime.device import worker_threads

CHUNK = 16 << 20  # bytes, at most, unless one matrix is larger
ALIGNMENT = 256  # bytes: where a matrix may begin in a chunk, as in memory that the GPU's allocator returns


class Event(Protocol):
    """A point in the work of the GPU."""

    def synchronize(self) -> None:
        """Waits until the GPU has reached it."""


class Buffer:
    """Pinned memory for one chunk at a time."""

    def __init__(self) -> None:
        self._bytes: Tensor | None = None
        self.read: Event | None = None  # when the GPU has read what it holds

    def room(self, matrices: Sequence[Tensor]) -> Tensor:
        """Memory for these matrices, in bytes."""
        size = sum(map(_room, matrices))
        if self._bytes is None or len(self._bytes) < size:
            self._bytes = _pinned(max(size, CHUNK))
        return self._bytes[:size]

    def filled(self, matrices: Sequence[Tensor]) -> Tensor:
        """The memory with copies of these matrices, once what it held before has been read."""
        if self.read:
            self.read.synchronize()
        memory = self.room(matrices)
        for place, matrix in zip(_places(memory, matrices), matrices, strict=True):
            place.copy_(matrix)
        return memory


def to_device(values: Iterable[Tensor], on: torch.device) -> Iterator[Tensor]:
    """The tensors on the device, one after another; the next ones are copied meanwhile. Those of a chunk share its
    memory."""
    if not _has_own_memory(on):
        yield from (value.to(on) for value in values)
        return
    remaining, free = _chunks(values), deque(Buffer() for _ in range(worker_threads() + 1))
    filling: deque[tuple[Buffer, list[Tensor], Future[Tensor]]] = deque()
    with ThreadPoolExecutor(worker_threads(), "upload") as pool:
        while True:
            while free and (chunk := next(remaining, None)) is not None:
                buffer = free.popleft()
                filling.append((buffer, chunk, pool.submit(buffer.filled, chunk)))
            if not filling:
                return
            buffer, chunk, filled = filling.popleft()
            copy = _upload(filled.result(), on)
            buffer.read = _event()
            free.append(buffer)
            yield from _places(copy, chunk)


def to_host(results: Iterable[tuple[str, Tensor]], on: torch.device) -> dict[str, Tensor]:
    """The tensors, computed one after another on a device, in ordinary memory by name; the next ones are computed
    while the last ones are copied."""
    if not _has_own_memory(on):
        return {name: value.cpu() for name, value in results}
    names = list[str]()

    def values() -> Iterator[Tensor]:
        for name, value in results:
            names.append(name)
            yield value

    buffers = [Buffer() for _ in range(worker_threads() + 1)]
    copies: list[Future[list[Tensor]]] = []
    with ThreadPoolExecutor(worker_threads(), "download") as pool:
        for number, chunk in enumerate(_chunks(values())):
            if number >= len(buffers):  # the buffer's last content must have been copied
                copies[number - len(buffers)].result()
            places = _places(buffers[number % len(buffers)].room(chunk), chunk)
            for value, place in zip(chunk, places, strict=True):
                _download(value, place)
            copies.append(pool.submit(_copied, places, _event()))
        return dict(zip(names, (value for copy in copies for value in copy.result()), strict=True))


def _copied(places: Sequence[Tensor], filled: Event) -> list[Tensor]:
    filled.synchronize()
    return [place.clone() for place in places]


def _chunks(values: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of at most CHUNK bytes."""
    chunk, size = list[Tensor](), 0
    for value in values:
        if chunk and size + _room(value) > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(value)
        size += _room(value)
    if chunk:
        yield chunk


def _room(matrix: Tensor) -> int:
    """Bytes that a matrix takes in a chunk."""
    return -(-matrix.nbytes // ALIGNMENT) * ALIGNMENT


def _places(memory: Tensor, matrices: Sequence[Tensor]) -> list[Tensor]:
    """The places of these matrices in a chunk's memory, of the same shapes and number formats."""
    places, at = [], 0
    for matrix in matrices:
        places.append(memory[at : at + matrix.nbytes].view(matrix.dtype).view(matrix.shape))
        at += _room(matrix)
    return places


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
