"""Recording on a stand-in for CUDA, which notes what is called in which order."""

from contextlib import contextmanager

import pytest
import torch

from stages.training import cuda_graph


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    noted: list[str] = []

    def noting(name, result=None):
        return lambda *_: noted.append(name) or result

    class Stream:
        def wait_stream(self, other) -> None:
            noted.append("wait")

    class Graph:
        capture_begin, capture_end, replay = (noting(name) for name in ("begin", "end", "replay"))

    @contextmanager
    def within(stream):
        noted.append("side")
        yield
        noted.append("main")

    for name in ("synchronize", "empty_cache", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, noting(name))
    monkeypatch.setattr(torch._C, "_host_emptyCache", noting("host"), raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    cuda_graph.side_stream.cache_clear()
    yield noted
    cuda_graph.side_stream.cache_clear()


def record(calls: list[str], function) -> None:
    cuda_graph.Recorder(lambda inner: inner()).record(lambda: calls.append("function") or function())()


def test_pinned_memory_stays_cached_and_the_devices_memory_is_freed_before_recording(calls):
    record(calls, lambda: None)
    warm_up, recording = ["wait", "side", "function", "main", "wait"], ["side", "begin", "function", "end", "main"]
    assert calls == [*warm_up, "graph_pool_handle", "synchronize", "empty_cache", *recording, "replay"]


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("full"), RuntimeError("not permitted"), KeyboardInterrupt()])
@pytest.mark.parametrize("end", [None, RuntimeError("the recording was invalidated")])
def test_a_recording_that_fails_has_ended_and_says_why(calls, monkeypatch, fault, end):
    def fails_when_recording() -> None:
        if "begin" in calls:
            raise fault

    def ended(self) -> None:
        calls.append("end")
        if end:
            raise end

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_end", ended)
    with pytest.raises(type(fault)) as raised:
        record(calls, fails_when_recording)
    assert raised.value is fault
    assert calls.count("begin") == calls.count("end") == 1
