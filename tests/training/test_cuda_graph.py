"""Recording on a stand-in for CUDA, which notes what is called in which order."""

import weakref
from contextlib import contextmanager
from itertools import count

import pytest
import torch

from stages.training import cuda_graph


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    noted, pools, numbers = list[str](), list[int](), count()

    def noting(name, result=None):
        return lambda *_: noted.append(name) or result

    class Stream:
        def wait_stream(self, other) -> None:
            noted.append("wait")

    class Graph:
        capture_end, replay = noting("end"), noting("replay")

        def capture_begin(self, pool, mode="global") -> None:
            noted.append(f"begin {mode}")
            pools.append(pool)

    def ends(device, pool) -> None:
        noted.append("pool ended")
        assert pool == pools[-1]
        if "refused" not in noted:
            raise RuntimeError("not currently recording to mempool_id")

    @contextmanager
    def within(stream):
        noted.append("side")
        try:
            yield
        finally:
            noted.append("main")

    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, noting(name))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: noted.append("pool") or (0, next(numbers)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ends)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", noting("pool released"))
    monkeypatch.setattr(torch._C, "_host_emptyCache", noting("host"), raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    cuda_graph.side_stream.cache_clear()
    yield noted
    cuda_graph.side_stream.cache_clear()


def record(calls: list[str], function, recorder=None) -> None:
    recorder = recorder or cuda_graph.Recorder(lambda inner: inner())
    recorder.record(lambda: calls.append("function") or function())()


RECORDING = "begin thread_local"  # other threads may use the device


def test_pinned_memory_stays_cached_and_the_devices_memory_is_freed_before_recording(calls):
    record(calls, lambda: None)
    warm_up, recording = ["wait", "side", "function", "main", "wait"], ["side", RECORDING, "function", "end", "main"]
    assert calls == [*warm_up, "pool", "synchronize", "empty_cache", *recording, "replay"]


def test_a_warm_up_that_fails_is_waited_for(calls):
    """What it has left on the side stream must not change what its caller restores."""

    def fails() -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        record(calls, fails)
    assert calls == ["wait", "side", "function", "main", "wait"]


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("full"), RuntimeError("not permitted"), KeyboardInterrupt()])
@pytest.mark.parametrize("end", [None, RuntimeError("the recording was invalidated")])
def test_a_recording_that_fails_has_ended_and_says_why(calls, monkeypatch, fault, end):
    def fails_when_recording() -> None:
        if RECORDING in calls:
            raise fault

    refuses_to_end(calls, monkeypatch, end)
    with pytest.raises(type(fault)) as raised:
        record(calls, fails_when_recording)
    assert raised.value is fault
    assert calls.count(RECORDING) == calls.count("end") == 1
    assert calls.count("pool released") == bool(end)


def test_after_a_recording_that_failed_memory_is_freed_as_ever(calls, monkeypatch):
    """torch 2.11 goes on recording to the pool if CUDA refuses to end, and does not take the pool again."""
    recorder = cuda_graph.Recorder(lambda inner: inner())
    with monkeypatch.context() as patch:
        refuses_to_end(calls, patch, RuntimeError("the recording was invalidated"))
        with pytest.raises(RuntimeError, match="invalidated"):
            record(calls, lambda: None, recorder)
    assert calls[-3:] == ["pool ended", "pool released", "main"]
    for _ in range(2):
        record(calls, lambda: None, recorder)
    assert calls.count("pool") == 2


def refuses_to_end(calls, monkeypatch, end: Exception | None) -> None:
    def ended(self) -> None:
        calls.append("end")
        if end:
            calls.append("refused")
            raise end

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_end", ended)


def test_a_function_that_does_not_fit_gets_the_memory_of_all_other_graphs(monkeypatch):
    """They share a pool, which torch frees with its last graph. The others are recorded again when they are called."""
    alive, fault = weakref.WeakSet(), []

    class Graph:
        def __init__(self, function) -> None:
            self.replay = function
            alive.add(self)

    def record(recorder, function):
        if fault:
            raise fault.pop()
        graph = Graph(function)
        return lambda: graph.replay()

    monkeypatch.setattr(cuda_graph.Recorder, "record", record)
    recorder, sums = cuda_graph.Recorder(lambda inner: inner()), []
    gradient, update = (cuda_graph.Replay(lambda x: sums.append(float(sum(x.values()).sum())), recorder) for _ in "ab")

    def step(size: int) -> int:
        gradient({"x": torch.ones(size)})
        recorded = len(alive)
        update({"y": torch.ones(1)})
        return recorded

    assert [step(1), step(2)] == [1, 3]
    fault.append(torch.OutOfMemoryError())
    assert step(3) == 0
    assert len(alive) == 1  # the update's
    assert [step(1), step(3)] == [1, 1]  # the gradient is no longer recorded
    assert sums == [1, 1, 2, 1, 3, 1, 1, 1, 3, 1]
    assert (gradient.recorder, update.recorder) == (None, recorder)
