"""Where stages run: GPUs as nvidia-smi or torch lists them, both of them fakes here."""

import os
from types import SimpleNamespace

import pytest
import torch

from flows.engine import journal
from flows.engine.order.slots import Slots, slots, slots_of
from stages.runtime.faults import ConfigFault, MachineFault
from stages.runtime.process import cores

MIB = 1 << 20
THREE = ("0, GPU-a1, 80000, Default", "1, GPU-b1, 40000, Default", "2, GPU-c1, 40000, Exclusive_Process")
WARNING = "WARNING: infoROM is corrupted at gpu 0000:3B:00.0"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes nvidia-smi print these lines, or fail, and torch see some GPUs."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "PALIMPSEST_JOBS", "PALIMPSEST_DEVICE"):
        monkeypatch.delenv(name, raising=False)

    def make(*lines, code=0, torch_sees=0):
        (tmp_path / "nvidia-smi").write_text(
            "\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in lines), f"exit {code}"])
        )
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: torch_sees)

    return make


def test_slots_of_gpus(machine, monkeypatch):
    """A second stage only where the memory is known, several processes may use the GPU, and nobody set a number."""
    machine(*THREE)
    assert slots(None, None) == Slots(3, ("0", "1", "2"))
    assert slots(None, "0, 1") == Slots(2, ("0", "1"), (80000 * MIB, 40000 * MIB))
    assert slots(None, "GPU-b1") == Slots(1, ("GPU-b1",), (40000 * MIB,))
    assert slots(None, "GPU-b") == Slots(1, ("GPU-b",))
    assert slots(None, "MIG-x") == Slots(1, ("MIG-x",))
    assert slots(2, "0,1") == Slots(2, ("0", "1"))
    monkeypatch.setenv("PALIMPSEST_JOBS", "1")
    assert slots(None, "0") == Slots(1, ("0",))


def test_each_worker_sees_its_own_gpus_only(machine):
    machine(*THREE)
    assert [slots(3, "0,1").environment(i)["CUDA_VISIBLE_DEVICES"] for i in range(3)] == ["0", "1", "0"]
    assert slots(2, "").environment(0)["CUDA_VISIBLE_DEVICES"] == ""


def test_warnings_among_the_gpus_are_no_gpus(machine):
    machine(THREE[0], WARNING)
    assert slots(None, None).devices == ("0",)
    machine("0, H100", "1, H100", WARNING)
    assert journal._machine() == "2 x H100"


def test_without_nvidia_smi_there_is_a_slot_for_each_gpu_that_torch_sees(machine, monkeypatch):
    machine(code=9, torch_sees=2)
    assert slots(None, None) == Slots(2, ("0", "1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert slots(None, None).devices == ("2", "3")
    monkeypatch.setenv("PATH", "")
    assert slots(None, None).devices == ("2", "3")


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_where_all_gpus_are_hidden_stages_run_on_cores(machine, monkeypatch, hidden):
    machine(*THREE)
    assert slots(None, hidden) == Slots(cores())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert slots(None, None) == Slots(cores())


def test_the_variable_hides_nothing_where_there_are_no_gpus(machine, monkeypatch):
    machine(code=9)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert slots(None, None) == Slots(cores())


@pytest.mark.parametrize("name", ["3", "banana", "GPU-x", "0,-1"])
def test_a_gpu_that_does_not_exist_is_refused_by_name(machine, monkeypatch, name):
    machine(*THREE)
    wrong = name.rpartition(",")[2]
    with pytest.raises(ConfigFault, match=f"^--devices: there is no GPU '{wrong}'. .*There is: 0, 1, 2.$"):
        slots(None, name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
    with pytest.raises(ConfigFault, match=f"^CUDA_VISIBLE_DEVICES: there is no GPU '{wrong}'"):
        slots(None, None)
    with pytest.raises(ConfigFault, match=r"^--devices: names GPU 1 twice"):
        slots(None, "1,1")
    machine(code=9)
    for gpu in (name, "0", "MIG-x"):
        with pytest.raises(ConfigFault, match=r"^--devices: there is no GPU .* There is: nothing.$"):
            slots(None, gpu)


def test_a_gpu_that_is_named_is_the_only_one_and_its_workers_first(machine, monkeypatch):
    machine(*THREE)
    monkeypatch.setenv("PALIMPSEST_DEVICE", "cuda:1")
    assert slots(None, None) == Slots(1, ("1",), (40000 * MIB,))
    assert slots(None, "0,2").devices == ("2",)
    assert slots(None, None).environment(0) == {"CUDA_VISIBLE_DEVICES": "1", "PALIMPSEST_DEVICE": "cuda"}
    with pytest.raises(ConfigFault, match=r"^PALIMPSEST_DEVICE: cuda:1, but there are 1 GPUs to use"):
        slots(None, "0")
    monkeypatch.setenv("PALIMPSEST_DEVICE", "cuda")
    assert slots(None, None).devices == ("0", "1", "2")


def test_cpu_and_apples_gpu_use_none_of_nvidias(machine, monkeypatch):
    machine(*THREE)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for kind, expected in (("cpu", Slots(cores())), ("mps", Slots(1, ("mps",)))):
        monkeypatch.setenv("PALIMPSEST_DEVICE", kind)
        assert slots(None, None) == expected
        with pytest.raises(ConfigFault, match=f"^--devices 0: PALIMPSEST_DEVICE is {kind}"):
            slots(None, "0")
    assert slots(None, None).environment(0) == {}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigFault, match=r"^PALIMPSEST_DEVICE: mps, but torch sees no GPU of Apple's"):
        slots(None, None)


def test_a_training_of_several_processes_has_as_many_gpus(machine):
    processes = {"alone": 1, "shared": 2}
    params = SimpleNamespace(
        strategies=tuple(processes), training=lambda name: SimpleNamespace(processes=processes[name])
    )
    machine(*THREE)
    assert slots_of(params) == Slots(1, ("0,1",))
    assert slots_of(params, 2, "2,0").devices == ("2,0",)
    assert slots_of(params).environment(0)["CUDA_VISIBLE_DEVICES"] == "0,1"
    with pytest.raises(MachineFault, match=r"^train\.processes: is 2, but there is only GPU 1\. Provide as many"):
        slots_of(params, None, "1")
    assert slots_of(params, None, "") == Slots(cores())
