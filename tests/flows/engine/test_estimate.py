"""`palimpsest plan` and `palimpsest forecast` count the same work and estimate the same time for it."""

import random
from itertools import product
from pathlib import Path

import pytest

from flows.engine.estimate import plan_seconds, workload_stage
from flows.graph.stage_names import StageName
from stages.core.params import load
from stages.tools.forecasting.calibration import Calibration, Cost
from stages.tools.forecasting.durations import Times, save_costs
from stages.tools.forecasting.forecast import hours
from stages.tools.forecasting.workload import WorkCounter, count, stages_of

COSTS = {"train": 0.011, "sample": 0.13, "score": 0.017, "merge": 0.19}
PARTS = {part: Cost(each, each, each) for part, each in COSTS.items()}
CALIBRATION = Calibration("this one", 0.0, **PARTS, picture_bytes=1.0, vector_bytes=1, memory={})


@pytest.fixture(scope="module")
def params():
    """The default study with strategies that rehearse, in two ways, and one that trains on all photos so far."""
    study = load()
    more = ("rehearse_words", "rehearse_pictures", "rehearse_generic", "joint")
    return study.model_copy(update={"strategies": (*study.strategies, *more)})


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
    return Times(tmp_path)


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
    captions = len(params.make_strategy("rehearse_generic").rehearse.captions)
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
    for task in range(len(params.tasks)):
        times.note("train", task, 100.0)
    by_part = hours(params, count(params), CALIBRATION, times)
    runs = len(params.strategies) * len(params.seeds) * len(params.orders) * len(params.domains)
    assert 3600 * by_part["train"]["each"] == pytest.approx(100.0 * runs * len(params.tasks))
    assert plan_seconds(params, names, names, times) == pytest.approx(3600 * by_part["together"]["each"])


def test_a_calibration_with_other_parameters_is_ignored(params, names, times):
    other = params.model_copy(update={"train": params.train.model_copy(update={"batch": params.train.batch + 1})})
    assert plan_seconds(other, names[:1], names, times) == times.of("sample_base", None)
    assert plan_seconds(params, names[:1], names, times) != times.of("sample_base", None)
