"""Two processes on one training, as they run with a GPU each: here on the CPU."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.runtime.faults import ConfigFault, InputFault
from stages.training.distributed import Team, assemble, assembled
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
    training = Training(Small(), OPTIONS.model_copy(update={"batch": 3}), (0, "0", "01"), folder / "run")
    adapter, losses = training.run(MATERIAL, keep=True)
    told = {"a": adapter.a["m"], "b": adapter.b["m"], "loss": torch.tensor(losses.loss)}
    save_file(told, folder / f"{training.team.rank}.safetensors")


def test_two_processes_learn_what_one_does(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ".")
    (tmp_path / "one").mkdir()
    work(tmp_path / "one")
    alone = load_file(tmp_path / "one/0.safetensors")
    for _ in range(2):  # the second time from the checkpoint of the last step
        assemble(2, ["-c", SHARED, str(tmp_path)])
        first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
        for name, value in alone.items():
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5)


def test_who_fails_takes_the_others_along(tmp_path):
    began = time.monotonic()
    with pytest.raises(InputFault, match=r"train\.processes ended with 3"):
        assemble(2, ["-c", WRONG])
    assert time.monotonic() - began < 300


def test_every_row_is_somebodys():
    shares = [Team.share(type("", (), {"rank": rank, "size": 3})(), range(8)) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(8))


def test_a_team_of_another_size_is_refused(monkeypatch):
    assert assembled(1)
    assert not assembled(2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigFault, match="is 2, but 3 were started"):
        assembled(2)
