"""A study whose trainings share batches gives the bytes of a run without, stage by stage.

One of its runs is repeated alone; each training alone beside a batch: tests/training/test_together.py."""

import pytest

from tests.support.crash import run_flow
from tests.support.workspace import ONE_METRIC, hashes, with_dvc, workspace

pytestmark = [pytest.mark.slow, pytest.mark.takes(30)]
OPTIONS = {"strategies": ["merge_init", "naive", "magmax"], "sample": {"steps": 1}, "score": ONE_METRIC}


def test_batches_change_no_byte(tmp_path):
    folder = with_dvc(workspace(tmp_path / "one", **OPTIONS))
    output = run_flow(folder, "--jobs=1")
    assert output.count(" / task 02 / train: ") == 3
    (log,) = (folder / ".cache/flow/logs").glob("together-*task1.log")
    assert "one after another" not in log.read_text("utf-8")
    together = hashes(folder, "runs")
    adapters = [name for name in together if name.endswith("02/adapter/adapter.safetensors")]
    assert len({together[name] for name in adapters}) == 2  # after one task the sum and the larger one are the same
    other = with_dvc(workspace(tmp_path / "other", **OPTIONS))
    run_flow(other, "objects/0/magmax/0", "--jobs=1", "--together=1")
    assert not list((other / ".cache/flow/logs").glob("together-*"))
    alone = hashes(other, "runs")
    assert len([name for name in alone if "/magmax/0/" in name]) > 30
    assert alone.items() <= together.items()
