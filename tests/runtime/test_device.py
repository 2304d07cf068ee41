import time

import torch

from stages.runtime import device


def test_results_come_in_the_order_of_the_items_however_long_each_takes(monkeypatch):
    monkeypatch.setattr(device, "hands", lambda: 4)
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.02 * (4 - number))
        return number

    assert device.side_by_side(work, range(5)) == [0, 1, 2, 3, 4]
    assert sorted(begun) == [0, 1, 2, 3, 4]


def test_on_a_cpu_as_many_as_it_computes_with(monkeypatch):
    monkeypatch.setattr(device.torch, "get_num_threads", lambda: 3)
    monkeypatch.setenv("PALIMPSEST_DEVICE", "cpu")
    device.device()
    assert device.hands() == 3 or device.device().type == "cuda"


def test_matrices_and_convolutions_are_not_rounded_to_tf32():
    """As in the paper's runs; torch itself has it on for convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device.device.__wrapped__()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
