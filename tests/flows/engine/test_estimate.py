"""How long a run takes: `plan`, `run` and `forecast` agree, and the estimate becomes accurate while it runs."""

import heapq
import random
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from flows.engine import estimate
from flows.engine.estimate import CHECK, Clock, span, units, workload_stage
from flows.engine.order.ready import Ready, makespan
from flows.graph.stage_names import StageName
from stages.core.params import load
from stages.tools.forecasting.calibration import Calibration
from stages.tools.forecasting.costs import Cost, total
from stages.tools.forecasting.durations import TIMES, Times, save_costs
from stages.tools.forecasting.forecast import hours
from stages.tools.forecasting.workload import WorkCounter, count, stages_of

COSTS = {"train": 0.011, "sample": 0.13, "score": 0.017, "merge": 0.19}
PARTS = {part: Cost(each, each, each) for part, each in COSTS.items()}
CALIBRATION = Calibration("this one", 0.0, **PARTS, picture_bytes=1.0, vector_bytes=1, memory={})


@pytest.fixture(scope="module")
def params():
    """The published strategies, those that rehearse, in two ways, and one that trains on all photos so far."""
    study = load()
    published = ("naive", "merge_init", "ortho_init", "magmax")
    more = ("rehearse_words", "rehearse_pictures", "rehearse_generic", "joint")
    return study.model_copy(update={"strategies": (*published, *more)})


@pytest.fixture(scope="module")
def names(params):
    """The stages of the study in the workload, with DVC's names and order."""
    stages = []
    for domain, order in product(params.domains, params.orders):
        stages += [StageName(f"{verb}_base", domain, order) for verb in ("sample", "score")]
        for strategy, seed in product(params.strategies, params.seeds):
            for task, verb in product(range(len(params.tasks)), ("train", "merge", "sample", "score")):
                stages.append(StageName(verb, domain, order, strategy, str(seed), task))
    return list(map(str, stages))


@pytest.fixture
def times(tmp_path, monkeypatch, params):
    """The durations in a folder where no stage has run, but a calibration was saved."""
    (tmp_path / "data").symlink_to(Path("data").resolve())
    monkeypatch.chdir(tmp_path)
    save_costs(params, COSTS)
    return Times(tmp_path, params)


def plan_seconds(params, to_run, names, times):
    return total(map(times.seconds, units(params, to_run, names).values())).each


def test_plan_and_forecast_agree(params, names, times):
    together = hours(params, count(params), CALIBRATION, times)["together"]["each"]
    assert plan_seconds(params, names, names, times) == pytest.approx(3600 * together)
    assert sorted(map(str, stages_of(params))) == sorted(str(workload_stage(StageName.parse(name))) for name in names)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_finished_and_remaining_work_add_up(params, names, times, share):
    """They add up for any set of finished stages, including the work that several stages share."""
    dice = random.Random(share)
    done = {name for name in names if dice.random() < share}
    remaining = [name for name in names if name not in done]
    work = WorkCounter(params)
    stages = {name: workload_stage(StageName.parse(name)) for name in names}

    def together(some, finished=()):
        parts = [counts for _, counts in work.units([stages[n] for n in some], [stages[n] for n in finished])]
        return {part: sum(counts.get(part, 0) for counts in parts) for part in COSTS}

    before, after = together([name for name in names if name in done]), together(remaining, done)
    assert {part: before[part] + after[part] for part in COSTS} == together(names)
    whole = plan_seconds(params, names, names, times)
    assert plan_seconds(params, remaining, names, times) == pytest.approx(
        whole - plan_seconds(params, sorted(done), sorted(done), times)
    )


def test_the_pictures_for_rehearsal_are_counted_where_they_are_made(params):
    """Each earlier concept's prompt at every later task, and the generic captions at all: six pictures of each."""
    work, tasks = count(params), len(params.tasks)
    captions = len(params.family.captions)
    assert work.for_rehearsal == 6 * (tasks * (tasks - 1) // 2 + tasks * captions)
    plain = count(params.model_copy(update={"strategies": params.strategies[:-3]}))  # with words alone
    assert plain.for_rehearsal == 0
    by_part = WorkCounter(params).units([s for s in stages_of(params) if s.strategy == "rehearse_pictures"])
    learned = [counts for stage, counts in by_part if stage.verb == "train"]
    assert [counts.get("sample", 0) for counts in learned] == [6 * task for task in range(tasks)]
    assert learned[0]["train"] < learned[1]["train"] == learned[-1]["train"]


def test_a_ceiling_takes_more_steps_with_every_task(params):
    by_part = WorkCounter(params).units([s for s in stages_of(params) if s.strategy == "joint" and s.verb == "train"])
    assert [counts["train"] for _, counts in by_part] == [params.train.steps * k for k in range(1, 11)]


def test_measured_durations_take_precedence_over_a_calibration_in_both(params, names, times):
    for _ in range(5):
        times.note("train", {"train": 300}, 100.0)
    work = count(params)
    by_part = hours(params, work, CALIBRATION, times)
    assert 3600 * by_part["train"]["each"] == pytest.approx(100.0 / 300 * by_part["train"]["count"], rel=0.5)
    assert plan_seconds(params, names, names, times) == pytest.approx(3600 * by_part["together"]["each"])


def test_a_calibration_with_other_parameters_is_ignored(params, times):
    other = params.model_copy(update={"train": params.train.model_copy(update={"batch": params.train.batch + 1})})
    assert times.cost("train").each == COSTS["train"]
    assert Times(Path.cwd(), other).cost("train").each != COSTS["train"]


def test_durations_are_saved_for_their_parameters(tmp_path, params):
    times = Times(tmp_path, params)
    guess = times.cost("train")
    for _ in range(9):
        times.note("train", {"train": 100}, 40.0)
    times.save()
    again = Times(tmp_path, params)
    assert again.cost("train").each == pytest.approx(0.4)
    assert again.known("train")
    assert not again.known("sample")
    other = params.model_copy(update={"train": params.train.model_copy(update={"rank": 3})})
    elsewhere = Times(tmp_path, other)
    assert not elsewhere.known("train")
    assert elsewhere.cost("train").each == pytest.approx(0.4)  # better than a guess, and in a wider range
    assert elsewhere.cost("train").high / 0.4 > again.cost("train").high / 0.4
    assert guess.high / guess.each > elsewhere.cost("train").high / 0.4
    elsewhere.note("sample", {"sample": 10}, 5.0)
    elsewhere.save()
    assert Times(tmp_path, params).cost("train").each == pytest.approx(0.4)


def test_work_of_another_part_in_a_stage_is_subtracted(times):
    times.note("sample", {"sample": 10}, 10.0)
    times.note("train", {"train": 100, "sample": 20}, 60.0)
    assert times.cost("train").each == pytest.approx((60 - 20 * 1.0) / 100)
    times.note("train", {"train": 0}, 0.3)  # it resumed from what another run had trained
    assert times.cost("train").each == pytest.approx(0.4)


def test_the_makespan_is_that_of_the_scheduler():
    needs = {"a": [], "b": ["a"], "c": ["b"], "x": [], "y": [], "end": ["c", "x", "y"]}
    seconds = dict.fromkeys(needs, 1.0)
    assert makespan(list(needs), needs, seconds, 1) == 6
    assert makespan(list(needs), needs, seconds, 2) == 4  # the chain a b c end; x and y run beside it
    assert makespan(list(needs), needs, seconds | {"x": 9.0}, 2) == 10
    assert makespan(["c", "end"], needs, seconds, 2) == 2  # what has ended is not waited for
    assert makespan([], needs, {}, 2) == 0


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (100, 290, "2 to 5 minutes"),
        (61, 62, "about 1 minute"),
        (60, 240, "1 to 4 minutes"),
        (50, 130, "50 seconds to 2 minutes"),
        (12, 27, "10 to 25 seconds"),
        (3500, 9000, "1 hour to 2 hours and 30 minutes"),
        (3, 3, "about 3 seconds"),
    ],
)
def test_a_range_in_words(low, high, words):
    assert span(Cost((low + high) / 2, low, high)) == words


class Graph:
    """The stages of a study, as dvc.yaml connects them."""

    def __init__(self, names):
        self.stages = dict.fromkeys(names)

    def upstream(self, name):
        stage = StageName.parse(name)
        run, at = (stage.domain, stage.order, stage.strategy, stage.seed), stage.task

        def of(verb, task):
            return [str(StageName(verb, *run, task=task))]

        if at is None:
            return [f"sample_base@{stage.domain}-{stage.order}"] if stage.verb == "score_base" else []
        before = {"merge": of("train", at), "sample": of("merge", at), "score": of("sample", at)}
        return before.get(stage.verb, of("merge", at - 1) if at else [])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("jobs", "slower"), [(1, 4.0), (2, 0.4), (4, 2.5)])
def test_after_the_first_stages_of_a_kind_the_estimate_is_within_a_factor_of_one_and_a_half(
    params, names, times, monkeypatch, jobs, slower, seed
):
    """On a machine that is faster or slower than the calibration, with noise, and with models to load at first."""
    dice, now = random.Random(seed), 0.0
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now)
    clock = Clock(Graph(names), params, times, names, names, jobs)
    work = {name: sum(COSTS[part] * count for part, count in clock.counts[name].items()) for name in names}
    true = {name: (slower * work[name] + 0.2) * dice.lognormvariate(0, 0.15) for name in names}
    waiting = {name: set(clock.needs[name]) for name in names}
    ready, running, ended, loaded = Ready(names, clock.needs, work, jobs), [], [], 0
    for name in names:
        if not waiting[name]:
            ready.add(name)
    moments = []  # when, the estimate then
    while ready or running:
        while ready and len(running) < jobs:
            name = ready.pop()
            true[name] += 4.0 * (loaded < jobs)
            loaded += 1
            clock.start(name)
            heapq.heappush(running, (now + true[name], name))
        now, name = heapq.heappop(running)
        clock.end(name, True, true[name])
        ended.append(name)
        for other in names:
            if name in waiting[other]:
                waiting[other].remove(name)
                if not waiting[other]:
                    ready.add(other)
        ran = Counter(part for n in ended for part, count in clock.counts[n].items() if count)
        if all(ran[part] > jobs for part in COSTS) and len(ended) % 7 == 0:  # each has run once without loading a model
            moments.append((now, clock.remaining()))
    ratios = [left.each / (now - at) for at, left in moments if now - at > 0.05 * now]
    assert len(ratios) > 20
    assert sum(1 / 1.5 < ratio < 1.5 for ratio in ratios) > 0.9 * len(ratios)
    assert 1 / 1.7 < min(ratios) < max(ratios) < 1.7
    inside = [left.low <= now - at <= left.high for at, left in moments if now - at > 0.05 * now]
    assert sum(inside) > 0.8 * len(inside)


def test_results_of_early_tasks_come_first_while_there_is_enough_to_do(params, names, times):
    """All strategies reach the scores of task 02 before any of them is at task 05; the longest chains come in time."""
    graph = Graph(names)
    needs = {name: graph.upstream(name) for name in names}
    seconds = {name: times.seconds(counts).each + 0.1 for name, counts in units(params, names, names).items()}
    short = [name for name in names if "-joint-" not in name]  # which takes longer than all others together
    ready, waiting, order = Ready(short, needs, seconds, 2), {name: set(needs[name]) for name in short}, []
    for name in (name for name in short if not waiting[name]):
        ready.add(name)
    while ready:
        order.append(ready.pop())
        for name in short:
            if order[-1] in waiting[name]:
                waiting[name].remove(order[-1])
                if not waiting[name]:
                    ready.add(name)
    assert sorted(order) == sorted(short)
    scored = [at for at, name in enumerate(order) if name.startswith("score@") and name.endswith("-task1")]
    assert max(scored) < min(at for at, name in enumerate(order) if name.endswith("-task4"))
    lower = max(sum(seconds[name] for name in names) / 2, *(Ready(names, needs, seconds, 2).longest.values()))
    assert makespan(names, needs, seconds, 2) < 1.1 * lower


def test_a_stage_that_is_only_checked_costs_next_to_nothing(params, names, times):
    clock = Clock(Graph(names), params, times, names, [], 1)
    assert clock.remaining().each == pytest.approx(len(names) * CHECK.each)
    assert clock.guess == ""


def test_an_estimate_says_what_of_it_is_a_guess(tmp_path, params, names):
    def guess(changed, **sections):
        study = params.model_copy(update=sections)
        return Clock(Graph(names), study, Times(tmp_path, study), names, changed, 1).guess

    assert guess(names) == "no stage of this study has run here yet"
    times = Times(tmp_path, params)
    for part in COSTS:
        times.note(part, {part: 10}, 5.0)
    times.save()
    assert guess(names) == ""
    guided = {"sample": params.sample.model_copy(update={"guidance": params.sample.guidance + 1})}
    sampled = [name for name in names if name.startswith(("sample", "score"))]
    assert guess(sampled, **guided) == "no sampling with these parameters has run here yet"
    assert guess([name for name in names if name.startswith("score")], **guided) == ""
    larger = {"base": params.base.model_copy(update={"options": params.base.options | {"dtype": "bfloat16"}})}
    assert guess(names, **larger) == "no stage with these parameters has run here yet"
    (tmp_path / TIMES).write_text('{"train": [1]}')
    assert guess(names) == "no stage of this study has run here yet"


def test_a_part_is_measured_until_its_own_parameters_change(tmp_path, params):
    times = Times(tmp_path, params)
    for part in COSTS:
        times.note(part, {part: 10}, 5.0)
    times.save()
    for section, parts in {"sample": {"sample"}, "score": {"score"}, "train": {"train", "merge"}}.items():
        field = {"sample": "guidance", "score": "judges", "train": "rank"}[section]
        value = {"sample": 9.0, "score": "elsewhere", "train": 3}[section]
        changed = getattr(params, section).model_copy(update={field: value})
        again = Times(tmp_path, params.model_copy(update={section: changed}))
        assert {part for part in COSTS if not again.known(part)} == parts


@pytest.fixture
def four(params, names, times, monkeypatch):
    """A clock of four second trainings on one worker, the seconds of each, and a function that sets the time."""
    trainings = [name for name in names if name.startswith("train") and name.endswith("-task1")][:4]
    moment = {"now": 1000.0}
    monkeypatch.setattr(estimate.time, "monotonic", lambda: moment["now"])
    clock = Clock(Graph(trainings), params, times, trainings, trainings, 1)
    each = {clock.seconds(name).each for name in trainings}
    assert len(each) == 1
    return clock, trainings, each.pop(), lambda now: moment.update(now=1000.0 + now)


def test_a_batch_takes_the_time_of_all_that_share_it(four):
    """Half of the way through it, none of them is nearly done; and what follows it in each counts what it did."""
    clock, trainings, each, at = four
    clock.start(*trainings)
    assert clock.remaining().each == pytest.approx(4 * each)
    at(2 * each)
    assert clock.remaining().each == pytest.approx(2 * each)
    clock.pause(*trainings)
    at(3 * each)  # nothing runs
    assert clock.remaining().each == pytest.approx(2 * each)
    clock.start(trainings[0])
    at(3.25 * each)
    assert clock.remaining().each == pytest.approx(1.75 * each)
    clock.end(trainings[0], True, 0.75 * each)
    assert clock.spent(trainings[0]) == 0
    assert len(clock.waiting) == 3


def test_a_stage_that_only_waits_for_a_worker_has_not_begun(four):
    clock, trainings, each, at = four
    clock.start(trainings[0])
    at(0.5 * each)
    assert clock.remaining().each == pytest.approx(3.5 * each)
    assert [clock.spent(name) for name in trainings[1:]] == [0, 0, 0]
