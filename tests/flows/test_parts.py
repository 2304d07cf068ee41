"""Stage names, slots and workers, without a study."""

from argparse import Namespace
from pathlib import Path

import pytest

from flows.engine.order.slots import Slots, slots
from flows.engine.pool import Pool, Worker, WorkerLost
from flows.graph import stage_names
from flows.graph.stage_names import StageName
from flows.study import Study


@pytest.mark.parametrize(
    ("stage", "title"),
    [
        ("train@objects-0-merge_init-0-task2", "objects / merge_init / order 0 / seed 0 / task 03 / train"),
        ("prepare@objects-0-task0", "objects / order 0 / task 01 / prepare"),
        ("start@styles-1-naive-3", "styles / naive / order 1 / seed 3 / start"),
        ("sample_base@objects-0", "objects / order 0 / sample of the base"),
        ("report", "report"),
    ],
)
def test_stage_names_have_a_title_in_words(stage, title):
    assert StageName.parse(stage).title == title
    assert str(StageName.parse(stage)) == stage


def test_a_strategy_stands_for_its_only_run():
    stages = stage_names.last_stages("merge_init")
    assert stages == stage_names.last_stages("objects/0/merge_init/0")
    assert "score@objects-0-merge_init-0-task9" in stages


def test_the_number_of_slots_comes_from_the_command_line_then_from_the_environment(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_JOBS", "5")
    assert slots(None, "").jobs == 5
    assert slots(2, "").jobs == 2


@pytest.mark.parametrize("quiet", [False, True])
def test_a_finished_study_says_how_to_see_its_result(monkeypatch, capsys, quiet):
    """Unless the command that ran it continues itself."""
    monkeypatch.setattr("flows.graph.graph.outdated", lambda root: [])
    study = Study.__new__(Study)
    study.args, study.root = Namespace(no_notes=quiet), Path()
    study._finish()
    assert capsys.readouterr().out == ("" if quiet else "Next: palimpsest report   the result\n")


@pytest.mark.slow
def test_a_worker_runs_modules_and_returns_their_exit_code_and_a_lost_one_is_replaced(tmp_path):
    pool = Pool(Slots(2))
    try:
        assert not pool.workers  # workers start on first use
        with pool.worker() as worker:
            assert worker.run(["json.tool", "--help"], tmp_path / "log", lambda *_: None) == 0
            assert worker.run(["json.tool", "/nothing"], tmp_path / "log", lambda *_: None) != 0
            assert "usage" in (tmp_path / "log").read_text()
            assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600  # it may contain prompts and paths
            for full in (Path("/dev/full"), tmp_path / "log/below"):  # no log can be written there, or made
                wrong = ["stages.tools.survey", "read", "/nothing"]
                assert worker.run(wrong, full, lambda *_: None) in (2, 3)
                assert "key.json" in worker.error
            assert worker.run(["json.tool", "--help"], tmp_path / "next", lambda *_: None) == 0
            assert not worker.error
            assert "key.json" not in (tmp_path / "next").read_text()
        pool.workers[0].process.kill()
        with pytest.raises(WorkerLost):
            pool.workers[0].run(["json.tool", "--help"], tmp_path / "log", lambda *_: None)
        pool.replace_lost()
        pool.replace_lost()
        assert len(pool.workers) == 1
        assert pool.workers[0].process.poll() is None
        with pool.worker() as worker:
            assert worker.run(["json.tool", "--help"], tmp_path / "log", lambda *_: None) == 0
    finally:
        pool.stop()


BREAKS = """import torch
def fails():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
torch.cuda.is_initialized, torch.cuda.max_memory_reserved, torch.cuda.synchronize = lambda: True, lambda: 0, {}
raise SystemExit({})
"""


@pytest.mark.slow
def test_a_worker_whose_gpu_no_longer_answers_ends_after_its_answer_and_the_next_stage_has_a_new_one(
    tmp_path, monkeypatch
):
    for name, gpu, code in (("illegal", "fails", 70), ("full", "lambda: None", 4), ("good", "fails", 0)):
        (tmp_path / f"{name}.py").write_text(BREAKS.format(gpu, code))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool, used = Pool(Slots(1)), []
    try:
        for name, code in (("full", 4), ("illegal", 70), ("good", 0), ("full", 4)):
            with pool.worker() as worker:
                assert worker.run([name], tmp_path / "log", lambda *_: None) == code
            used.append(worker.process)
    finally:
        pool.stop()
    first, second, third, fourth = used
    assert first is second is not third is fourth


@pytest.mark.slow
def test_a_worker_is_not_one_of_several_processes_whatever_started_the_flow(tmp_path, monkeypatch):
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "3"), ("WORLD_SIZE", "4"), ("TORCHELASTIC_USE_AGENT_STORE", "1")):
        monkeypatch.setenv(name, value)
    (tmp_path / "says.py").write_text("from stages.training.distributed import _place\nprint(_place())\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker(0, {})
    try:
        assert worker.run(["says"], tmp_path / "log", lambda *_: None) == 0, worker.error
        assert (tmp_path / "log").read_text() == "(0, 1)\n"
    finally:
        worker.dismiss()
        worker.process.wait()
