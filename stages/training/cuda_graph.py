"""."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stages.core.family import Encodings
from stages.core.params import Train

log = logging.getLogger("palimpsest")


REHEARSALS = 3  # of what is recorded, on a stream of its own, as CUDA graphs need


def recordable(on: torch.device, options: Train) -> bool:
    """Whether CUDA graphs can be made: checkpointing asks for the state of generators midway, which they forbid."""
    return on.type == "cuda" and not options.checkpointing


class Recorder:
    """Makes CUDA graphs, in memory that they share: nothing in it outlives a replay, and they are replayed in turn.

    Args:
        rehearse: runs what it is given without a lasting effect.
    """

    def __init__(self, rehearse: Callable[[Callable[[], None]], None]) -> None:
        self._rehearse = rehearse
        self._pool: Any = None

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """
        Raises:
            RuntimeError: it cannot be recorded.
            torch.OutOfMemoryError: a graph keeps its memory, and there is not enough for this one.
        """
        self._rehearse(lambda: aside(function))
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()

        def once() -> None:
            with torch.cuda.graph(graph, pool=self._pool):
                function()

        self._rehearse(once)
        return graph.replay


def aside(function: Callable[[], None]) -> None:
    """Calls it as often as it takes before it may be recorded, on a stream of its own."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(REHEARSALS):
            function()
    torch.cuda.current_stream().wait_stream(stream)


class Replay:
    """A function of tensors, fed through tensors in fixed places: one set of them for all inputs of the same shapes.

    Args:
        recorder: where there is one, the function is recorded as a CUDA graph and replayed from then on. If that fails,
            or memory does not do for it, it is called as ever.
    """

    def __init__(self, function: Callable[[Encodings], None], recorder: Recorder | None) -> None:
        self._function, self._recorder = function, recorder
        self._places: dict[tuple[object, ...], tuple[dict[str, Tensor], Callable[[], None]]] = {}

    def __call__(self, inputs: Encodings) -> None:
        key = tuple((name, value.shape, value.dtype) for name, value in sorted(inputs.items()))
        if key not in self._places:
            places = {name: value.clone() for name, value in inputs.items()}
            self._places[key] = places, self._prepared(partial(self._function, places))
        places, run = self._places[key]
        for name, place in places.items():
            place.copy_(inputs[name], non_blocking=True)
        run()

    def _prepared(self, function: Callable[[], None]) -> Callable[[], None]:
        if self._recorder is None:
            return function
        try:
            return self._recorder.record(function)
        except torch.OutOfMemoryError:
            reason = "out of memory"
            self._places.clear()  # those of other shapes would keep what this one needs
        except RuntimeError as error:
            reason = str(error)
        self._recorder = None
        log.warning("a step cannot be recorded as a CUDA graph and runs without: %s", reason)
        return function
