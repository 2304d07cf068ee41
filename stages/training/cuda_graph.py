"""Records functions of tensors as CUDA graphs and replays them, so that a step costs one launch and not thousands.

A graph reads and writes fixed places in memory: inputs are copied into them before each replay. Before it is recorded a
function is warmed up on a side stream, as CUDA graphs require. Where recording is impossible the function is called
directly: slower, with the same result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from stages.core.family import Encodings
from stages.core.params import Train
from stages.runtime.faults import first_line

log = logging.getLogger("palimpsest")


WARM_UPS = 1  # calls on a side stream before a function is recorded: libraries and compiled code prepare in the first


def recordable(on: torch.device, options: Train) -> bool:
    """Whether CUDA graphs can be recorded: gradient checkpointing reads generator states midway, which they forbid."""
    return on.type == "cuda" and not options.checkpointing


class Recorder:
    """Records CUDA graphs in one shared memory pool: nothing in it outlives a replay, and replays never overlap.

    Args:
        without_effect: calls the function it gets, then undoes the effect on the training state.
    """

    def __init__(self, without_effect: Callable[[Callable[[], None]], None]) -> None:
        self._without_effect = without_effect
        self._pool: Any = None
        self.memory = 0  # bytes of the device that its graphs hold
        self.users: list[dict[Any, Any]] = []  # with its graphs

    def forget(self) -> None:
        """Frees all graphs: while one is left, the pool keeps the memory of the others."""
        for graphs in self.users:
            graphs.clear()
        self.memory = 0

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Warms up and records a function; neither changes the training state.

        Returns:
            What replays it.

        Raises:
            RuntimeError: the function cannot be recorded.
            torch.OutOfMemoryError: not enough memory; a graph holds the memory it uses.
        """
        self._without_effect(lambda: warm_up(function))
        graph = torch.cuda.CUDAGraph()
        pool = self._pool or torch.cuda.graph_pool_handle()
        self._pool = None  # if this fails, torch may not take the pool again

        def recording() -> None:
            self.memory += capture(function, graph, pool)

        self._without_effect(recording)
        self._pool = pool
        return graph.replay


@cache
def side_stream() -> torch.cuda.Stream:
    """The stream of all warm-ups and recordings: graphs share the memory of their pool only if they share a stream."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def warm_up(function: Callable[[], None]) -> None:
    """Calls a function `WARM_UPS` times on a side stream."""
    stream = side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
    finally:  # what has failed may still write to what the caller restores
        torch.cuda.current_stream().wait_stream(stream)


def capture(function: Callable[[], None], graph: torch.cuda.CUDAGraph, pool: Any) -> int:
    """Records a function in a graph whose memory is in this pool; whatever it raises, the recording has ended.

    `torch.cuda.graph` does the same, and also gives back the pinned memory that torch caches: each training would pin a
    gigabyte for its checkpoints again, which takes most of a second. Meanwhile other threads may use the GPU: the one
    that writes checkpoints pins memory and waits for copies; under "global" both it and the recording would fail.

    Returns:
        By how many bytes the pool has grown.
    """
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what the warm-up has left: a graph cannot use it
    before = torch.cuda.memory_reserved()
    with torch.cuda.stream(side_stream()):
        try:
            graph.capture_begin(pool, "thread_local")
            try:
                function()
            except BaseException:
                with suppress(RuntimeError):  # that the recording is of no use is known
                    graph.capture_end()
                raise
            graph.capture_end()
        except BaseException:
            close(pool)
            raise
    return torch.cuda.memory_reserved() - before


def close(pool: Any) -> None:
    """Ends the use of a pool by a recording that failed. torch 2.15 always has, 2.11 not if CUDA refuses to end the
    recording: from then on it could free no memory, and would raise where it is asked to."""
    with suppress(RuntimeError):  # the pool is not in use
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)


class Replay:
    """Calls a function on tensors in fixed places: one set of places for all inputs of the same shapes.

    Args:
        function: takes tensors by name; the same function for every set of shapes.
        recorder: records the function as a CUDA graph at the first call with new shapes. None, or if recording fails or
            there is not enough memory: the function is called directly.
    """

    def __init__(self, function: Callable[[Encodings], None], recorder: Recorder | None) -> None:
        self._function, self.recorder = function, recorder
        self._places: dict[tuple[object, ...], tuple[dict[str, Tensor], Callable[[], None]]] = {}
        if recorder:
            recorder.users.append(self._places)

    def __call__(self, inputs: Encodings) -> Encodings:
        """Returns the tensors in their places, where the function may have left results; the next call changes them."""
        key = shapes_of(inputs)
        if key not in self._places:
            places = {name: value.clone() for name, value in inputs.items()}
            self._places[key] = places, self._prepared(partial(self._function, places))
        places, run = self._places[key]
        for name, place in places.items():
            place.copy_(inputs[name], non_blocking=True)
        run()
        return places

    def knows(self, inputs: Encodings) -> bool:
        """Whether the function is prepared for inputs of these shapes."""
        return shapes_of(inputs) in self._places

    def _prepared(self, function: Callable[[], None]) -> Callable[[], None]:
        if self.recorder is None:
            return function
        try:
            return self.recorder.record(function)
        except torch.OutOfMemoryError:
            reason = "out of memory"
            self.recorder.forget()  # graphs of other shapes and functions hold memory that the direct call needs
        except RuntimeError as error:
            reason = first_line(error)
        self.recorder = None
        log.warning("a step cannot be recorded as a CUDA graph and runs without one: %s", reason)
        return function


def shapes_of(inputs: Encodings) -> tuple[object, ...]:
    """Equal for tensors of the same names, shapes and number formats."""
    return tuple((name, value.shape, value.dtype) for name, value in sorted(inputs.items()))
