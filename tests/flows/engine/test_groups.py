"""Which stages start next, and which trainings share a batch: a fake graph of four chains, and fake workers."""

import threading

import pytest

from flows.engine import scheduler
from flows.engine.order.groups import MODULE, Groups, alike_in, command, limit
from flows.engine.order.ready import Ready
from flows.engine.order.slots import Slots
from flows.engine.pool import WorkerLost
from flows.engine.scheduler import Engine
from stages.core.params import load
from stages.runtime.faults import ConfigFault
from tests.flows.engine.test_scheduler import Clock, Pool
from tests.support.stage_graph import StageGraph

STRATEGIES = ("naive", "merge_init", "ortho_init", "magmax")
NEEDS: dict[str, list[str]] = {}
for strategy in STRATEGIES:
    for task in range(3):
        key = f"objects-0-{strategy}-0-task{task}"
        NEEDS[f"train@{key}"] = [f"merge@objects-0-{strategy}-0-task{task - 1}"] if task else []
        NEEDS[f"merge@{key}"] = [f"train@{key}"]
        NEEDS[f"sample@{key}"] = [f"merge@{key}"]


class Graph(StageGraph):
    needs = NEEDS

    def __init__(self, cached=()):
        self.is_cached, self.updated, self.lock = cached, [], threading.Lock()

    def command(self, name):
        return f'python -m stages.{name.partition("@")[0]} "$DVC_STAGE"'

    def would_run(self, name):
        return name not in self.is_cached

    def update_stage(self, name, run):
        with self.lock:
            self.updated.append(name)
        if name in self.is_cached:
            return "cached"
        run()
        return "ran"


class Workers(Pool):
    def __init__(self, jobs, **ends):
        super().__init__(jobs, **ends)
        self.batches = []

    def run(self, words, log, listen):
        if words[0] == MODULE:
            self.batches.append(words[1:])
        return super().run(words, log, listen)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(scheduler, "LOGS", tmp_path / "logs")


def run(graph, pool, at_most=4, alike=None):
    engine = Engine(graph, pool, Clock(), Groups(alike or alike_in(load()), at_most))
    results = []

    def submit(work, name):
        threading.Thread(target=work, args=(name,)).start()

    return engine.run(list(NEEDS), submit, results.append), pool


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_every_stage_runs_once_in_order_and_trainings_of_several_runs_share_a_batch(jobs):
    graph = Graph()
    outcome, pool = run(graph, Workers(jobs))
    assert sorted(graph.updated) == sorted(NEEDS)
    assert outcome.count("ran") == len(NEEDS)
    assert pool.most <= jobs
    assert pool.most_asking <= jobs + (jobs > 1)  # one waits for a worker
    assert all(graph.updated.index(needed) < graph.updated.index(name) for name in NEEDS for needed in NEEDS[name])
    grouped = [word for batch in pool.batches for word in batch]
    assert len(grouped) == len(set(grouped))
    for batch in pool.batches:
        assert 2 <= len(batch) <= 4
        assert len({word.rpartition("/")[0] for word in batch}) == len(batch)  # one task of each run
    if jobs == 1:  # nothing else runs meanwhile, so that all four meet
        assert [len(batch) for batch in pool.batches if batch[0].endswith(("02", "03"))] == [4, 4]


def test_a_limit_of_one_groups_nothing():
    outcome, pool = run(Graph(), Workers(2), 1)
    assert outcome.count("ran") == len(NEEDS)
    assert not pool.batches


@pytest.mark.parametrize("end", [70, 75, WorkerLost("killed"), OSError("disk")])
def test_whatever_happens_to_a_batch_its_stages_run(end):
    outcome, pool = run(Graph(), Workers(1, **{MODULE: [end] * 9}))
    assert outcome.count("ran") == len(NEEDS)
    assert pool.batches


def test_a_stop_during_a_batch_names_its_trainings_as_saved():
    pool = Workers(1)
    engine = Engine(Graph(), pool, Clock(), Groups(alike_in(load()), 4))
    run = pool.run

    def stopped(words, log, listen):
        if words[0] == MODULE:
            engine.stopping.set()
        return run(words, log, listen)

    pool.run = stopped
    submit = lambda work, name: threading.Thread(target=work, args=(name,)).start()  # noqa: E731
    outcome = engine.run(list(NEEDS), submit, lambda result: None)
    assert len(outcome.saved) == len(pool.batches[0]) > 1
    assert not outcome.saved & outcome.results.keys()


def test_cached_trainings_are_not_computed():
    cached = {f"train@objects-0-{strategy}-0-task1" for strategy in STRATEGIES[:3]}
    outcome, pool = run(Graph(cached), Workers(1))
    assert outcome.count("cached") == 3
    assert not [word for batch in pool.batches for word in batch if word.endswith("/02")]


def test_a_training_that_fails_stops_only_its_own_chain():
    class Failing(Workers):
        def run(self, words, log, listen):
            code = super().run(words, log, listen)
            return 3 if words[-1] == "train@objects-0-naive-0-task1" else code

    outcome, _ = run(Graph(), Failing(1))
    assert [failed.name for failed in outcome.failures] == ["train@objects-0-naive-0-task1"]
    assert {name.split("-")[2] for name in outcome.skipped} == {"naive"}
    assert outcome.count("ran") == len(NEEDS) - 1 - len(outcome.skipped)


def test_unlike_trainings_do_not_share_a_batch():
    def alike(name):
        return name.split("-")[2] == "naive" if name.startswith("train") else None

    _, pool = run(Graph(), Workers(1), alike=alike)
    assert pool.batches
    assert not [batch for batch in pool.batches if {"naive"} < {word.split("/")[2] for word in batch}]


def test_two_free_slots_share_what_is_ready_when_nothing_else_is():
    trainings = [f"train@objects-0-{strategy}-0-task1" for strategy in STRATEGIES]
    more = [f"sample@objects-0-{strategy}-0-task1" for strategy in STRATEGIES[:2]]

    def ready(names):
        queue = Ready(names, {name: [] for name in names}, {n: 9.0 if n[0] == "t" else 1.0 for n in names}, 2)
        for name in names:
            queue.add(name)
        return queue

    groups = Groups(lambda name: name.startswith("train") or None, 4)
    first = groups.pick(queue := ready(trainings), {}, [], 2)
    assert len(first) == 2
    assert sorted(first + groups.pick(queue, {}, first[:1], 1)) == sorted(trainings)
    assert not queue
    groups = Groups(groups.alike, 4)
    assert sorted(groups.pick(queue := ready([*trainings, *more]), {}, [], 2)) == sorted(trainings)
    assert set(queue) == set(more)


def test_the_command_names_the_tasks():
    names = ["train@objects-0-naive-0-task1", "train@objects-0-magmax-0-task2"]
    assert command(names) == [
        MODULE,
        "objects/0/naive/0/02",
        "objects/0/magmax/0/03",
    ]


def test_what_is_alike():
    params = load()
    alike = alike_in(params)
    second = [alike(f"train@objects-0-{strategy}-0-task1") for strategy in STRATEGIES]
    assert second[0] is not None
    assert len(set(second)) == 1
    assert alike("sample@objects-0-naive-0-task1") is None
    assert alike("train@objects-0-merge_init-0-task0") is None  # the same training as that of the first strategy
    first = {name: alike(f"train@objects-0-{name}-0-task0") for name in params.strategies}
    assert first["naive"] == first["magmax"] is not None  # at another rate it is another training
    assert first["rehearse_words"] not in (None, first["naive"])  # with more rows in each step
    for section in ({"watch": params.watch.model_copy(update={"previews_every": 5})},
                    {"train": params.train.model_copy(update={"processes": 2})}):  # fmt: skip
        assert alike_in(params.model_copy(update=section))("train@objects-0-naive-0-task1") is None


def test_the_limit(monkeypatch):
    assert (limit(None, Slots(2)), limit(None, Slots(1, ("0",))), limit(3, Slots(1, ("0",)))) == (6, 1, 3)
    monkeypatch.setenv("PALIMPSEST_TOGETHER", "2")
    assert (limit(None, Slots(2)), limit(1, Slots(2))) == (2, 1)
    with pytest.raises(ConfigFault, match="--together"):
        limit(-1, Slots(2))
    monkeypatch.setenv("PALIMPSEST_TOGETHER", "all")
    with pytest.raises(ConfigFault, match="PALIMPSEST_TOGETHER: 'all' is not a whole number"):
        limit(None, Slots(2))
