"""Apple's GPU as the device, on a machine without one: its place is taken by the CPU, and every call of CUDA fails."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from flows.commands import doctor
from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core.family import Row
from stages.core.params import Train
from stages.families.toy import Toy
from stages.families.unet import family as unet_family
from stages.families.unet import learner as unet_learner
from stages.runtime import device
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator
from stages.training.checkpoints import Checkpoints
from stages.training.step import Descent

MPS = torch.device("mps")
OPTIONS = Train(rank=4, alpha=8, steps=2, batch=2, learning_rate=1e-3, reinit="shared", checkpoint_every=9)


class OnCpu(TorchFunctionMode):
    """Puts on the CPU what is meant for Apple's GPU, and refuses float64 there, which that GPU lacks."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        values = [*args, *kwargs.values()]
        if MPS in [v for v in values if isinstance(v, torch.device)]:
            assert torch.float64 not in [v for v in values if isinstance(v, torch.dtype)], function
            args = [torch.device("cpu") if isinstance(v, torch.device) else v for v in args]
            kwargs = {k: torch.device("cpu") if isinstance(v, torch.device) else v for k, v in kwargs.items()}
        return function(*args, **kwargs)


def used(family: Toy, folder):
    """The weights after a swap, an adapter after two steps and a checkpoint of it, and a picture."""
    fresh = fresh_adapter(family.shapes(), 4, 8, generator("mps"))
    adapter = Adapter(
        fresh.a, {n: 0.02 * torch.randn(b.shape, generator=generator(n)) for n, b in fresh.b.items()}, 1.0
    )
    learner = family.learner(adapter.delta, fresh, OPTIONS)
    moments = torch.randn((2, 2, *family.noise_shape()), generator=generator("moments")).abs()
    learner.prepare([{"moments": row[None]} for row in moments], family.encode_prompts(["a star", "a heart"]))
    descent = Descent(learner, OPTIONS, 9)
    for _ in range(OPTIONS.steps):
        descent.gradient(learner.inputs([Row(0, 0, 1, 0.5), Row(1, 1, 2, 0.5)]))
        descent.update(1e-3)
    checkpoints = Checkpoints(folder)
    checkpoints.save(2, {}, descent.state())
    checkpoints.close()
    stored = checkpoints.newest()
    assert stored is not None
    family.shift(Delta())
    family.shift(adapter.delta)
    noise = torch.randn((1, *family.noise_shape()), generator=generator("noise"))
    (picture,) = family.sample(family.encode_prompts(["a star"]), noise, 2, 5.0, "euler")
    return [*learner.adapter().b.values(), stored[1]["0.weight"]], picture.tobytes()


def test_nothing_calls_cuda_and_the_numbers_are_the_same(tmp_path, monkeypatch):
    from stages.core.params import load

    own = load().family
    expected = used(Toy(path=own.path, revision=own.revision), tmp_path / "cpu")

    def fails(*_, **__):
        raise AssertionError("called CUDA")

    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph_pool_handle", "empty_cache", "synchronize",
                 "mem_get_info", "get_device_properties", "get_device_capability"):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fails)
    monkeypatch.setattr(torch.Tensor, "pin_memory", fails)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    for module in (device, unet_family, unet_learner):
        monkeypatch.setattr(module, "device", lambda: MPS)
    with OnCpu():
        tensors, picture = used(Toy(path=own.path, revision=own.revision), tmp_path / "mps")
    assert picture == expected[1]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(tensors, expected[0], strict=True))
    assert device.algebra_device().type == "cpu"
    device.free_memory()


@pytest.mark.parametrize("name", ["mps", "gpu", "cuda:99", "cpu:x", "cuda:-1"])
def test_a_device_that_is_missing_is_refused_by_name(name, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("PALIMPSEST_DEVICE", name)
    with pytest.raises(ConfigFault, match=f"PALIMPSEST_DEVICE: .*{name}"):
        device.device.__wrapped__()


def test_mps_is_used_if_it_is_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setenv("PALIMPSEST_DEVICE", "mps")
    assert device.device.__wrapped__() == MPS
    monkeypatch.delenv("PALIMPSEST_DEVICE")
    assert device.device.__wrapped__().type != "mps"


def test_the_doctor_says_what_apples_gpu_will_do(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    (note,) = doctor._gpu()
    for words in ("note: ", "PALIMPSEST_DEVICE=mps", "merged on the CPU", "not been tried"):
        assert words in note
