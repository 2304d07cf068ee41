import time

import pytest
import torch

from stages.runtime import device
from stages.runtime.faults import ConfigFault


def test_results_are_in_the_order_of_the_items(monkeypatch):
    monkeypatch.setattr(device, "worker_threads", lambda: 4)
    started = []

    def work(number: int) -> int:
        started.append(number)
        time.sleep(0.02 * (4 - number))
        return number

    assert device.parallel_map(work, range(5)) == [0, 1, 2, 3, 4]
    assert sorted(started) == [0, 1, 2, 3, 4]


def test_on_a_cpu_there_are_as_many_threads_as_torch_uses(monkeypatch):
    monkeypatch.setattr(device.torch, "get_num_threads", lambda: 3)
    monkeypatch.setenv("PALIMPSEST_DEVICE", "cpu")
    device.device()
    assert device.worker_threads() == 3 or device.device().type == "cuda"


def test_matrices_and_convolutions_are_not_rounded_to_tf32():
    """As in the paper's runs; torch's default allows it for convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device.device.__wrapped__()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_a_gpu_that_is_named_is_the_current_one(monkeypatch):
    """Streams, events and graphs belong to the current GPU, and would not wait for the work of another one."""
    current = []
    monkeypatch.setenv("PALIMPSEST_DEVICE", "cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert device.device.__wrapped__() == torch.device("cuda:1") == current[0]


def test_only_one_of_several_processes_has_a_gpu_of_its_own(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert device.device.__wrapped__() == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigFault, match=r"^LOCAL_RANK: is 2, but torch sees 2 GPUs"):
        device.device.__wrapped__()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.device.__wrapped__() == torch.device("cuda")
    assert current == [1]
