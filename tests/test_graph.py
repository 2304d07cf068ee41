"""DVC's graph runs every stage once and only when needed, with the same bytes after a kill. Takes a few minutes."""

import random
import re
import shutil
import signal

import pytest

from tests.support.crash import UP_TO_DATE, kill_at_random, run_flow
from tests.support.crash import ran as stages_of
from tests.support.workspace import change, dvc, hashes, ran, small, tasks

pytestmark = [pytest.mark.slow, pytest.mark.takes(120)]
FIRST = ("runs/small/objects/0/data/01", "runs/small/objects/0/merge_init")  # what a second task leaves as it is


@pytest.fixture(scope="module")
def done(graph_done, tmp_path_factory):
    """The finished study in a folder that the tests change one after another."""
    folder = shutil.copytree(graph_done[0], tmp_path_factory.mktemp("graph") / "work")
    return folder, *graph_done[1:]


def flow(folder):
    """The titles of the stages that the flow ran; it runs the same graph as DVC in less time."""
    return stages_of(run_flow(folder))


def kinds(names):
    return {name.split(" / ")[-1] for name in names}


def test_every_stage_ran_once_and_the_second_time_none(done):
    folder, first, _ = done
    assert kinds(first) == {
        "prepare", "start", "train", "merge", "sample", "score", "sample of the base", "score of the base", "report",
    }  # fmt: skip
    assert not ran(dvc(folder, "repro"))
    assert "up to date" in dvc(folder, "status")


def test_the_flow_then_has_nothing_to_do(done):
    assert run_flow(done[0]) == UP_TO_DATE


def test_killed_and_run_again_dvc_ends_with_the_same_bytes_as_the_flow(graph_done, tmp_path):
    """With one task, which DVC learns and scores; the flow then runs only what a second task adds, and the rest."""
    folder, dice = small(tmp_path / "work"), random.Random(0)
    change(folder, **tasks(1))
    for what in ("dvc and its stage", "dvc alone"):
        code, output = kill_at_random(folder, what, dice, 4)  # also checks that no stage outlives DVC
        assert code == -signal.SIGKILL, output
    assert ran(dvc(folder, "repro", "score")), "nothing was left to run"
    assert run_flow(folder, "objects/0/merge_init/0") == UP_TO_DATE
    first = hashes(folder, *FIRST)
    assert len(first) > 20
    change(folder, **tasks(2))
    stages = flow(folder)
    assert kinds(stages) == kinds(graph_done[1]) - {"start"}
    assert all("task 02" in name for name in stages if "base" not in name and name != "report"), stages
    assert hashes(folder) == graph_done[2]  # the same bytes in another workspace, metrics.json included
    assert first.items() <= graph_done[2].items(), "DVC's own"


def test_code_that_no_stage_uses_and_comments_rerun_no_training(done):
    """In the plan, too: what depends on a stage that will write the same is not counted."""
    folder, *_, before = done
    (folder / "stages/strategies/unused.py").write_text("# Nothing yet.\n")
    with (folder / "stages/datasets/toy.py").open("a") as file:
        file.write("# A comment.\n")
    plan = run_flow(folder, "--plan")
    assert "1 of 14 stages to update (1 to run, 0 cached): " in plan  # the report reads the strategies' regimes
    assert plan.splitlines()[-1] == "  report"
    assert kinds(flow(folder)) == {"prepare", "start", "report"}
    assert hashes(folder) == before


def test_a_changed_parameter_reruns_only_the_stages_that_depend_on_it(done):
    folder, _, before = done
    change(folder, sample={"guidance": 2.0})
    plan = run_flow(folder, "--plan")
    assert "7 of 14 stages to update (7 to run, 0 cached): " in plan
    assert "of disk" in plan
    assert "objects / merge_init / order 0 / seed 0 / task 02 / sample" in plan
    assert kinds(flow(folder)) == {"sample", "score", "sample of the base", "score of the base", "report"}
    assert "up to date" in dvc(folder, "status")
    change(folder, sample={"guidance": 3.0})
    plan = run_flow(folder, "--plan")
    assert re.search(r"^7 of 14 stages to update \([01] to run, [67] cached\): ", plan, re.M)
    assert kinds(flow(folder)) <= {"report"}  # the others are in the cache
    assert hashes(folder) == before
    change(folder, report={"confidence": 0.9})
    assert "1 of 14 stages to update (1 to run, 0 cached): " in (plan := run_flow(folder, "--plan"))
    assert plan.splitlines()[-1] == "  report"
