"""Copies of many matrices between host and GPU, beside what is computed from them.

A copy from or to ordinary memory waits for all work before it, at a fraction of the bus's speed. So threads copy
between ordinary memory and a few pinned buffers, some chunks ahead of the GPU or behind it. A chunk is many small
matrices or one large one: one task of a thread and one copy for each matrix took ten times as long as the copies.
Threads make few calls: each takes Python's lock, for which the thread that feeds the GPU would have to wait. Values do
not change. Without a GPU nothing is copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
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


def to_device(values: Iterable[Tensor], on: torch.device) -> Iterator[Tensor]:
    """The tensors on the device, one after another; the next ones are copied meanwhile. Those of a chunk share its
    memory."""
    if not _has_own_memory(on):
        yield from (value.to(on) for value in values)
        return
    remaining, free = _chunks(values), deque(Buffer() for _ in range(worker_threads() + 1))
    filling: deque[tuple[Buffer, Tensor, list[Tensor], Future[None]]] = deque()
    with ThreadPoolExecutor(worker_threads(), "upload") as pool:
        while True:
            while free and (chunk := next(remaining, None)) is not None:
                buffer = free.popleft()
                memory = buffer.room(chunk)
                filled = pool.submit(_fill, _places(memory, chunk), chunk, buffer.read)
                filling.append((buffer, memory, chunk, filled))
            if not filling:
                return
            buffer, memory, chunk, filled = filling.popleft()
            filled.result()
            copy = _upload(memory, on)
            buffer.read = _event()
            free.append(buffer)
            yield from _places(copy, chunk)


def _fill(places: list[Tensor], matrices: list[Tensor], read: Event | None) -> None:
    """Copies matrices to their places once what was there has been read."""
    if read:
        read.synchronize()
    torch._foreach_copy_(places, matrices)


def to_host(results: Iterable[tuple[str, Tensor]], on: torch.device) -> dict[str, Tensor]:
    """The tensors, computed one after another on a device, in ordinary memory by name; the next ones are computed
    while the last ones are copied. Those of a chunk share its memory: new memory takes longer to get than to write."""
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
            memory = buffers[number % len(buffers)].room(chunk)
            copies.append(pool.submit(_copied, chunk, memory, _download(chunk, _places(memory, chunk), on)))
        return dict(zip(names, (value for copy in copies for value in copy.result()), strict=True))


def _copied(values: list[Tensor], memory: Tensor, filled: Event) -> list[Tensor]:
    """The values, from a buffer; until then their own memory must not be reused, so this holds them."""
    filled.synchronize()
    return _places(memory.clone(), values)


def _chunks(values: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of at most CHUNK bytes and one number format."""
    chunk, size = list[Tensor](), 0
    for value in values:
        room = _room(value)
        if chunk and (size + room > CHUNK or value.dtype != chunk[0].dtype):
            yield chunk
            chunk, size = [], 0
        chunk.append(value)
        size += room
    if chunk:
        yield chunk


def _room(matrix: Tensor) -> int:
    """Bytes that a matrix takes in a chunk."""
    return -(-matrix.nbytes // ALIGNMENT) * ALIGNMENT


def _places(memory: Tensor, matrices: Sequence[Tensor]) -> list[Tensor]:
    """The places of these matrices in a chunk's memory, of the same shapes and number format."""
    dtype, sizes = matrices[0].dtype, list[int]()
    for matrix in matrices:
        sizes += matrix.numel(), _room(matrix) // dtype.itemsize - matrix.numel()
    parts = memory.view(dtype).split(sizes)  # type: ignore[no-untyped-call]
    return [part.view_as(matrix) for part, matrix in zip(parts[::2], matrices, strict=True)]


def _has_own_memory(on: torch.device) -> bool:
    return on.type == "cuda"


def _pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _upload(buffer: Tensor, on: torch.device) -> Tensor:
    return buffer.to(on, non_blocking=True)


def _download(values: Sequence[Tensor], places: Sequence[Tensor], on: torch.device) -> Event:
    """Copies values to their places in a buffer, beside uploads, which use the other direction of the bus."""
    stream = _downloads(on)
    stream.wait_stream(torch.cuda.current_stream(on))
    with torch.cuda.stream(stream):
        for value, place in zip(values, places, strict=True):
            place.copy_(value, non_blocking=True)
        return _event()


@cache
def _downloads(on: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(on)  # type: ignore[no-untyped-call]


def _event() -> Event:
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # leaves the cores to threads that copy
    event.record()
    return event
