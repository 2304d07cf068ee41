"""The graph as DVC runs it: nothing twice, nothing too much, and the same bytes after any crash. A few minutes."""

import random
import re
import shutil
import signal

import pytest

from tests.support.crash import UP_TO_DATE, kill_some_time, said
from tests.support.crash import ran as stages_of
from tests.support.workspace import change, dvc, hashes, ran, small, tasks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(graph_done, tmp_path_factory):
    """The finished study, in a folder with which the tests go on one after another."""
    folder = shutil.copytree(graph_done[0], tmp_path_factory.mktemp("graph") / "work")
    return folder, *graph_done[1:]


def flow(folder):
    """The stages, in words, that the flow has run: the same graph as DVC's own, and quicker to wait for."""
    return stages_of(said(folder))


def kinds(names):
    return {name.split(" / ")[-1] for name in names}


def test_every_stage_ran_once_and_the_second_time_none(done):
    folder, first, _ = done
    assert kinds(first) == {
        "prepare", "start", "train", "merge", "sample", "score", "sample of the base", "score of the base", "report",
    }  # fmt: skip
    assert not ran(dvc(folder, "repro"))
    assert "up to date" in dvc(folder, "status")


def test_the_flow_has_nothing_to_do_then(done):
    assert said(done[0]) == UP_TO_DATE


def test_killed_and_run_again_dvc_ends_with_the_same_bytes_as_the_flow(done, tmp_path):
    folder, dice = small(tmp_path / "work"), random.Random(0)
    for what in ("dvc and its stage", "dvc alone"):
        code, said_by_dvc = kill_some_time(folder, what, dice, 4)  # a stage does not outlive who started it
        assert code == -signal.SIGKILL, said_by_dvc
    assert "report" in ran(dvc(folder, "repro"))
    assert said(folder) == UP_TO_DATE
    assert hashes(folder) == done[2]  # another clone of the same commit, killed on its way: the same metrics.json too


def test_a_changed_parameter_reruns_what_it_must_and_no_more(done):
    folder, _, before = done
    change(folder, report={"confidence": 0.9})
    assert ran(dvc(folder, "repro")) == {"report"}
    change(folder, report={"confidence": 0.95}, sample={"guidance": 2.0})
    plan = said(folder, "--plan")
    assert "7 of 14 stages to update: 7 to run, 0 cached." in plan
    assert "of disk" in plan
    assert "objects / merge_init / order 0 / seed 0 / task 02 / sample" in plan
    assert kinds(flow(folder)) == {"sample", "score", "sample of the base", "score of the base", "report"}
    assert "up to date" in dvc(folder, "status")
    change(folder, sample={"guidance": 3.0})
    plan = said(folder, "--plan")
    assert re.search(r"^7 of 14 stages to update: [01] to run, [67] cached\.$", plan, re.M)
    assert kinds(flow(folder)) <= {"report"}  # the cache has them
    assert hashes(folder) == before


def test_an_appended_task_computes_only_itself(done):
    folder = done[0]
    kept = hashes(folder, "runs/small/objects/0/merge_init")
    change(folder, **tasks(3))
    alone = {name for name in flow(folder) if "base" not in name and name != "report"}
    assert alone
    assert all("task 03" in name for name in alone), alone
    after = hashes(folder, "runs/small/objects/0/merge_init")
    assert all(after[name] == value for name, value in kept.items())
