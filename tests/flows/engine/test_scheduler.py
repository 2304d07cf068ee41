"""The order of stages, retries and failures: the engine with a fake graph and fake workers."""

import errno
import threading
import time
from contextlib import contextmanager

import pytest
from dvc.dependency.base import DependencyDoesNotExistError
from dvc.exceptions import DvcException
from dvc.lock import LockError

from flows.engine import scheduler
from flows.engine.order.slots import Slots
from flows.engine.pool import WorkerLost
from flows.engine.scheduler import RETRIES, Engine
from stages.tools.forecasting.costs import Cost
from tests.support.stage_graph import StageGraph

NEEDS = {"a": [], "b": ["a"], "c": ["b"], "x": [], "y": ["x"], "report": ["c", "y"]}
NAMES = list(NEEDS)


class Graph(StageGraph):
    """Six stages: two chains, and a report that depends on both."""

    needs = NEEDS

    def __init__(self, errors=None, cached=()):
        self.errors, self.is_cached, self.updated, self.written = dict(errors or {}), cached, [], False

    def update_stage(self, name, run):
        self.updated.append(name)
        if self.errors.get(name):
            raise self.errors[name].pop(0)
        if name in self.is_cached:
            return "cached"
        run()
        return "ran"

    def write(self):
        self.written = True


class Pool:
    """Fake workers. `ends`: by module, the exit codes or exceptions of its runs in turn; 0 for all others."""

    def __init__(self, jobs=2, **ends):
        self.slots, self.ends, self.replaced, self.ran = Slots(jobs), ends, 0, []
        self.peak, self.error, self.lock, self.lent = 0, "", threading.Lock(), threading.Semaphore(jobs)
        self.asking, self.most_asking, self.busy, self.most = 0, 0, 0, 0

    @contextmanager
    def worker(self):
        """Lends one, and like the real pool no more at a time than there are slots."""
        with self.lock:
            self.asking += 1
            self.most_asking = max(self.most_asking, self.asking)
        try:
            with self.lent:
                with self.lock:
                    self.busy += 1
                    self.most = max(self.most, self.busy)
                try:
                    yield self
                finally:
                    with self.lock:
                        self.busy -= 1
        finally:
            with self.lock:
                self.asking -= 1

    def run(self, words, log, listen):
        self.ran.append(words[0])
        end = self.ends.get(words[0], [0])
        end = end.pop(0) if end else 0
        if isinstance(end, Exception):
            raise end
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"error: {words[0]} ends with {end}\n")
        return end

    def replace_lost(self):
        self.replaced += 1


class Clock:
    """A clock that knows the seconds of some stages: 1 for all others."""

    def __init__(self, **seconds):
        self.known, self.ended = seconds, []

    def seconds(self, name):
        return Cost.about(self.known.get(name, 1.0), 1.0)

    def start(self, *names):
        pass

    def pause(self, *names):
        pass

    def skip(self, name):
        pass

    def end(self, name, ran, seconds):
        self.ended.append(name)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch, tmp_path):
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.001)
    monkeypatch.chdir(tmp_path)


def run(graph, pool, plan=None):
    results = []
    engine = Engine(graph, pool, Clock())

    def submit(work, name):
        threading.Thread(target=work, args=(name,)).start()

    return engine.run(plan or NAMES, submit, results.append), results


def test_every_stage_runs_once_after_its_dependencies_and_no_more_at_a_time_than_there_are_slots():
    graph, pool = Graph(), Pool(jobs=2)
    outcome, results = run(graph, pool)
    assert sorted(pool.ran) == sorted(NAMES)
    assert all(pool.ran.index(needed) < pool.ran.index(name) for name in NAMES for needed in NEEDS[name])
    assert pool.most <= 2
    assert [result.how for result in results] == ["ran"] * 6
    assert not outcome.failures
    assert graph.written


@pytest.mark.parametrize("error", [WorkerLost("killed"), LockError("busy")])
def test_a_lost_worker_and_a_busy_lock_are_retried(error):
    graph, pool = (Graph(), Pool(b=[error])) if isinstance(error, WorkerLost) else (Graph({"b": [error]}), Pool())
    outcome, _ = run(graph, pool)
    assert graph.updated.count("b") == 2
    assert outcome.count("ran") == 6


def test_retries_end_after_a_few_attempts_with_growing_pauses(monkeypatch):
    pauses = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: pauses.append(seconds) or False)
    graph = Graph({"b": [LockError("busy")] * 9})
    engine = Engine(graph, Pool(), Clock())
    result = engine._update_stage("b")
    assert (result.how, result.code, graph.updated) == ("failed", 4, ["b"] * (RETRIES + 1))
    assert pauses == [0.001, 0.002, 0.004]


@pytest.mark.parametrize(
    ("code", "how"),
    [(2, "failed"), (3, "failed"), (4, "failed"), (70, "failed"), (75, "preempted")],
)
def test_a_failing_command_is_not_retried_and_only_its_dependents_are_skipped(code, how):
    pool = Pool(b=[code] * 9)
    outcome, results = run(Graph(), pool)
    assert pool.ran.count("b") == 1
    assert outcome.skipped == {"c": "b", "report": "b"}
    assert {result.name: result.how for result in results} == {"a": "ran", "b": how, "x": "ran", "y": "ran"}
    (failure,) = outcome.failures
    assert (failure.code, failure.error) == (code, f"b ends with {code}")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DependencyDoesNotExistError("data/mug"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
        (DvcException("cannot link"), 4),
        (KeyError("a bug"), 70),
    ],
)
def test_errors_of_dvc_have_the_exit_code_of_their_kind_and_are_not_retried(error, code):
    graph = Graph({"b": [error] * 9})
    outcome, _ = run(graph, Pool())
    assert graph.updated.count("b") == 1
    assert [result.code for result in outcome.failures] == [code]


@pytest.mark.parametrize("at", ["before a worker is free", "during the command"])
def test_after_a_stop_no_stage_starts_and_a_lost_worker_counts_as_preempted(at):
    graph, pool = Graph(), Pool(jobs=1)
    engine = Engine(graph, pool, Clock())

    def ends(words, log, listen):
        engine.stopping.set()
        raise WorkerLost("asked to end")

    def submit(work, name):
        if at.startswith("before"):
            engine.stopping.set()
        threading.Thread(target=work, args=(name,)).start()

    pool.run = ends
    outcome = engine.run(NAMES, submit, lambda result: None)
    assert [(result.how, result.code) for result in outcome.results.values()] == [("preempted", 75)]
    assert graph.written


def test_the_longest_chain_starts_first_if_it_decides_when_the_run_ends():
    pool = Pool(jobs=1)
    Engine(Graph(), pool, Clock(b=30.0)).run(NAMES, lambda work, name: work(name), lambda result: None)
    assert pool.ran[:2] == ["a", "b"]


def test_a_running_stage_is_known_from_its_start_until_its_end():
    pool, seen = Pool(jobs=1), []
    engine = Engine(Graph(), pool, Clock())
    run, pool.run = pool.run, lambda words, log, listen: seen.append(dict(engine.progress)) or run(words, log, listen)
    engine.run(["a", "b"], lambda work, name: work(name), lambda result: None)
    assert seen == [{"a": (0, 0)}, {"b": (0, 0)}]
    assert (engine.progress, engine.counted) == ({}, {})


def test_a_stage_is_shown_while_its_files_are_checked_or_saved_and_not_while_it_waits():
    class Checking(Graph):
        def update_stage(self, name, run):
            seen.append(dict(engine.progress))
            how = super().update_stage(name, run)
            seen.append(dict(engine.progress))
            return how

    seen, pool = [], Pool(jobs=1)
    lend = pool.worker
    pool.worker = lambda: seen.append(dict(engine.progress)) or lend()
    engine = Engine(Checking(cached=["b"]), pool, Clock())
    engine.run(["a", "b"], lambda work, name: work(name), lambda result: None)
    assert seen == [{"a": (0, 0)}, {}, {"a": (0, 0)}, {"b": (0, 0)}, {"b": (0, 0)}]


def test_a_pace_begins_where_a_stage_begins_to_count(monkeypatch):
    now = 0.0
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now)
    engine = Engine(Graph(), Pool(), Clock())
    counts = []
    for done, total in ((0, 0), (50, 100), (60, 100), (2, 9), (1, 9), (3, 9)):  # the last but one is another work
        engine._note_progress("a", done, total)
        counts.append(engine.counted.get("a"))
        now += 1.0
    assert counts == [(0.0, 0), (1.0, 50), (1.0, 50), (3.0, 2), (4.0, 1), (4.0, 1)]


def test_a_stage_waits_only_for_dependencies_in_the_plan():
    pool = Pool()
    outcome, _ = run(Graph(cached=["c"]), pool, ["c", "report"])
    assert pool.ran == ["report"]
    assert (outcome.count("cached"), outcome.count("ran")) == (1, 1)


def test_waiting_for_a_worker_is_no_part_of_a_stages_time():
    class Watched(Clock):
        def start(self, *names):
            assert lent, "it begins with the worker"

    pool, lent = Pool(jobs=2), []
    lend = pool.worker

    @contextmanager
    def later():
        time.sleep(0.3)
        with lend() as worker:
            lent.append(worker)
            yield worker
            lent.pop()

    pool.worker, seconds = later, []
    Engine(Graph(), pool, Watched()).run(
        NAMES, lambda work, name: work(name), lambda result: seconds.append(result.seconds)
    )
    assert len(seconds) == len(NAMES)
    assert max(seconds) < 0.3
