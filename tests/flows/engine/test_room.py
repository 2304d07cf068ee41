"""A second stage on a GPU: only where the memory has room for both, on the GPU that has least to do, and without making
estimates longer. GPUs and workers are fakes."""

import threading
import time

import pytest

from flows.engine import worker as worker_module
from flows.engine.order import room as room_module
from flows.engine.order.room import CONTEXT, Room, kind_of, save_peaks, saved_peaks
from flows.engine.order.slots import Slots
from flows.engine.pool import Pool
from flows.engine.scheduler import Engine
from stages.tools.forecasting.costs import Cost
from tests.support.stage_graph import StageGraph

GIB = 1 << 30
CHAIN = [f"{verb}@objects-0-naive-0-task{task}" for task in range(3) for verb in ("train", "merge", "sample", "score")]
NEEDS: dict[str, list[str]] = {}
for name in CHAIN:
    verb, _, key = name.partition("@")
    needed = {"merge": "train", "sample": "merge", "score": "sample"}
    before = [f"merge@objects-0-naive-0-task{int(key[-1]) - 1}"] if verb == "train" and key[-1] != "0" else []
    NEEDS[name] = [f"{needed[verb]}@{key}"] if verb in needed else before


class Graph(StageGraph):
    needs = NEEDS


class Workers:
    """Fake workers, which note the stages that run at the same time."""

    def __init__(self, free, peak):
        self.slots, self.peak, self.lock = Slots(1, ("0",), free), peak, threading.Lock()
        self.running, self.pairs = set(), set()

    def worker(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, words, log, listen):
        with self.lock:
            self.pairs |= {frozenset((words[0], other)) for other in self.running}
            self.running.add(words[0])
        time.sleep(0.02)
        with self.lock:
            self.running.remove(words[0])
        return 0

    def replace_lost(self):
        pass


class Clock:
    def __init__(self):
        self.seconds_of = {}

    def seconds(self, name):
        return Cost.about(1.0, 1.0)

    def start(self, *names):
        pass

    def end(self, name, ran, seconds):
        self.seconds_of[name] = seconds


def run(workers, peaks=None):
    room = Room(workers.slots, CHAIN, peaks)
    clock = Clock()

    def submit(work, name):
        threading.Thread(target=work, args=(name,)).start()

    Engine(Graph(), workers, clock, room=room).run(CHAIN, submit, lambda result: None)
    return room, clock


MEASURED = {kind: 15 * GIB for name in CHAIN if (kind := kind_of(name))}


def test_the_next_training_runs_beside_the_sampling_of_the_state_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workers = Workers((80 * GIB,), 15 * GIB)
    run(workers, MEASURED)
    assert frozenset(("sample@objects-0-naive-0-task0", "train@objects-0-naive-0-task1")) in workers.pairs


def test_until_all_kinds_of_stages_are_measured_they_run_alone_and_then_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workers = Workers((80 * GIB,), 15 * GIB)
    room, _ = run(workers)
    assert room.peaks == MEASURED
    assert room.stages == 2
    assert not [pair for pair in workers.pairs if any(name.endswith("task0") for name in pair)]


def test_where_two_do_not_fit_nothing_runs_beside_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for free in ((24 * GIB,), ()):
        workers = Workers(free, 15 * GIB)
        run(workers, MEASURED)
        assert not workers.pairs


@pytest.mark.parametrize(("gib", "stages"), [(15, 2), (31, 2), (31.1, 1), (70, 1)])
def test_two_of_the_largest_must_fit_into_four_fifths_of_the_smallest_gpu(gib, stages):
    shared = Slots(1, ("0",), (80 * GIB,))
    peaks = MEASURED | {"sample naive later": int(gib * GIB)}
    assert CONTEXT == GIB
    assert Room(shared, CHAIN, peaks).stages == stages
    assert Room(Slots(2, ("0", "1"), (200 * GIB, 80 * GIB)), CHAIN, peaks).stages == 2 * stages


def test_a_kind_that_has_not_run_allows_no_second_stage():
    shared = Slots(1, ("0",), (80 * GIB,))
    other = "train@objects-0-magmax-0-task1"
    assert Room(shared, [*CHAIN, other], MEASURED).stages == 1
    assert Room(shared, [*CHAIN, "report", "prepare@objects-0-task0"], MEASURED).stages == 2
    room = Room(shared, CHAIN, MEASURED)
    room.close()
    assert room.stages == 1


def test_what_a_stage_loses_to_another_on_its_gpu_is_not_its_own_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    room = Room(Slots(1, ("0",), (80 * GIB,)))
    first = room.lost(+1)
    now[0] = 10.0
    second = room.lost(+1)  # alone until now
    now[0] = 16.0
    assert room.lost(-1) - first == 3.0  # six seconds at half the speed
    now[0] = 20.0
    assert room.lost(-1) - second == 3.0


def test_on_cores_no_time_is_lost():
    room = Room(Slots(4))
    for change in (+1, +1, +1, +1, -1, -1, -1, -1):
        assert room.lost(change) == 0


def test_a_worker_reports_what_torch_has_held(monkeypatch):
    import torch

    assert worker_module._memory() == 0
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7)
    assert worker_module._memory() == 7


def test_peaks_are_saved_for_the_same_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    these = {"train": "a", "sample": "b", "score": "c", "merge": "d"}
    assert saved_peaks(these) == {}
    save_peaks(these, MEASURED | {"sample_base base first": 5})
    assert saved_peaks(these) == MEASURED | {"sample_base base first": 5}
    others = saved_peaks(these | {"sample": "other"})
    assert others == {kind: peak for kind, peak in MEASURED.items() if not kind.startswith("sample")}
    for damaged in ("", "[]", '{"train naive later": 5}', '{"train naive later": ["a", "x"]}'):
        room_module.PEAKS.write_text(damaged)
        assert saved_peaks(these) == {}


class FakeProcess:
    def poll(self):
        return None


def test_a_stage_gets_a_worker_on_the_gpu_with_least_to_do(monkeypatch):
    class Worker:
        def __init__(self, slot, environment):
            self.slot, self.device, self.process = slot, environment["CUDA_VISIBLE_DEVICES"], FakeProcess()

    monkeypatch.setattr("flows.engine.pool.Worker", Worker)
    pool = Pool(Slots(2, ("0", "1"), (GIB, GIB)))
    assert pool.slots.workers == 4
    lent = [pool.worker() for _ in range(4)]
    devices = [one.__enter__().device for one in lent]
    assert sorted(devices) == ["0", "0", "1", "1"]
    assert {devices[0], devices[1]} == {"0", "1"}
    for one in (lent[0], lent[2]):  # both of one GPU
        one.__exit__(None, None, None)
    lent[1].__exit__(None, None, None)
    with pool.worker() as chosen:
        assert chosen.device == devices[0]
