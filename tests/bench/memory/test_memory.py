"""The presets are tried one by one, and one that does not fit is reported."""

import json

import pytest
import torch

from stages.tools.profiles import presets
from tests.bench.gpu import page, random_sdxl
from tests.bench.memory import __main__ as memory


def test_the_limit_is_that_of_the_preset(monkeypatch):
    """A fake GPU of 80 GiB."""
    limits = []
    monkeypatch.setattr(memory, "device", lambda: torch.device("cuda"))
    properties = type("Properties", (), {"total_memory": 80 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda on: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    assert memory.limited(24)
    assert memory.limited(80)
    assert limits == [23 / 80, 79 / 80]
    assert not memory.limited(96)


@pytest.mark.slow
def test_every_preset_is_tried_and_what_does_not_fit_is_an_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(random_sdxl.UNETS["hundredth"], "transformer_layers_per_block", (1, 1, 1))  # not 70 in all
    out = tmp_path / "memory.json"
    assert memory.main(["--size", "hundredth", "--json", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [f"{name} GB" for name in presets() for _ in range(2)]
    assert all(line.endswith(" fits") for line in printed)
    assert page.page([json.loads(out.read_text("utf-8"))]).count("| fits |") == len(printed)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(memory, "train", lambda *_: None)
    monkeypatch.setattr(memory, "sample", full)
    assert memory.main(["--size", "hundredth"]) == 1
    assert "sampling DOES NOT FIT: CUDA out of memory" in capsys.readouterr().out
