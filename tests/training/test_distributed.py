"""One training in two processes, here on the CPU."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.core.penalty import Penalty
from stages.runtime.faults import ConfigFault, InputFault
from stages.training.distributed import ProcessGroup, launch, launched, process_group
from stages.training.loop import Training
from tests.training.test_loop import MATERIAL, OPTIONS, Small

SHARED = """
import sys
from pathlib import Path
from tests.training.test_distributed import work
work(Path(sys.argv[1]))
"""
WRONG = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(600)"


def work(folder: Path) -> None:
    options = OPTIONS.model_copy(update={"batch": 3})
    penalty = Penalty(lambda at, _: iter([at.module("m").square().sum()]))  # which counts once, not once per process
    training = Training(Small(), options, (0, "0", "01"), folder / "run", penalty=penalty)
    adapter, losses = training.run(MATERIAL, keep=True)
    result = {"a": adapter.a["m"], "b": adapter.b["m"], "loss": torch.tensor(losses.loss)}
    save_file(result, folder / f"{training.processes.rank}.safetensors")


def test_two_processes_train_the_same_adapter_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ".")
    (tmp_path / "one").mkdir()
    work(tmp_path / "one")
    alone = load_file(tmp_path / "one/0.safetensors")
    for _ in range(2):  # the second time from the checkpoint of the last step
        launch(2, ["-c", SHARED, str(tmp_path)])
        first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
        for name, value in alone.items():
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5)


def test_if_one_process_fails_the_others_are_stopped(tmp_path):
    began = time.monotonic()
    with pytest.raises(InputFault, match=r"train\.processes ended with 3"):
        launch(2, ["-c", WRONG])
    assert time.monotonic() - began < 300


def test_every_row_belongs_to_exactly_one_process():
    shares = [ProcessGroup.share(type("", (), {"rank": rank, "size": 3})(), range(8)) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(8))


def test_another_number_of_processes_is_refused(monkeypatch):
    assert launched(1)
    assert not launched(2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigFault, match=r"is 2, but 3 were started \(WORLD_SIZE\)"):
        launched(2)


def test_a_rank_that_no_process_has_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    for asked in (process_group.__wrapped__, lambda: launched(1)):
        with pytest.raises(ConfigFault, match=r"^RANK: is 3, but WORLD_SIZE is 1. Unset both"):
            asked()
