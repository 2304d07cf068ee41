"""Feed-forward layers in float8, on an SDXL with random weights and a hundredth of the size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.merge_check import rounding_loss
from stages.adapters.storage import fingerprint
from stages.families.sdxl import Sdxl
from stages.families.unet.float8 import FORMAT, LARGEST, Float8Linear, quantise, with_float8_feed_forward
from stages.files.artifact import digest
from stages.runtime import instruction_set
from stages.runtime.faults import MachineFault
from stages.runtime.instruction_set import native
from stages.runtime.seeds import generator

needs_products = pytest.mark.skipif(
    not native(),
    reason="a CPU multiplies float8 with later instructions than AVX2 only: PALIMPSEST_INSTRUCTIONS=native",
)
PROMPTS = ["a photo of a sks owl at night", "a photo of a heart"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]))
def test_the_rounding_error_is_at_most_half_a_step(seed, size):
    """Three bits of mantissa: a sixteenth of the number, or half of the row's smallest step."""
    rows = size * torch.randn((5, 33), generator=generator(seed))
    rows[2] = 0
    codes, scale = quantise(rows)
    error = (codes.float() * scale - rows).abs()
    assert bool(codes.float().isfinite().all())
    assert bool((error <= torch.maximum(rows.abs() / 16, scale * 2**-10) * (1 + 1e-6)).all())
    assert torch.equal(codes[2].float(), torch.zeros(33))
    assert float(codes.float().abs().amax(1)[0]) == LARGEST


@needs_products
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_is_the_product_of_the_rounded_matrices(dtype):
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 48).to(dtype), 30 * torch.randn(2, 7, 64).to(dtype)
    output = Float8Linear(linear)(x)
    (w, v), (y, u) = quantise(linear.weight.detach()), quantise(x.flatten(0, 1))
    expected = (y.double() * u) @ (w.double() * v).T + linear.bias.double()
    assert (output.dtype, output.shape) == (dtype, (2, 7, 48))
    assert float((output.flatten(0, 1) - expected).norm() / expected.norm()) <= torch.finfo(dtype).eps
    assert float((output - linear(x)).norm() / linear(x).norm()) < 0.05
    compiled = torch.compile(Float8Linear(linear), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), output)


def family_of(standin, **options) -> Sdxl:
    return Sdxl(path=str(standin.path), revision=standin.revision, pixels=64, **options)


def delta_of(family: Sdxl, part: float) -> Delta:
    """A delta whose norm is this part of the weights' norm, module by module."""
    fresh = fresh_adapter(family.shapes(), 4, 4, generator("test"))
    b = {}
    for name, value in fresh.b.items():
        drawn = torch.randn(value.shape, generator=generator(name))
        b[name] = drawn * part * float(family.weight(name).float().norm() / (drawn @ fresh.a[name]).norm())
    return Adapter(fresh.a, b, fresh.scale).delta


def levels(family: Sdxl) -> np.ndarray:
    noise = torch.randn((2, *family.noise_shape()), generator=generator("noise"))
    pictures = family.sample(family.encode_prompts(PROMPTS), noise, 3, 3.0, "euler")
    return np.stack([np.asarray(picture, np.int16) for picture in pictures])


@needs_products
def test_states_are_swapped_in_place_and_pictures_are_close(standin):
    exact, rounded = family_of(standin), family_of(standin, feed_forward_dtype="float8_e4m3fn")
    unet, states = rounded.pipeline.unet, (Delta(), delta_of(exact, 0.5))
    sampled = []
    for state in (*states, Delta()):
        rounded.shift(state)
        before = fingerprint(unet.state_dict())
        sampled.append(levels(rounded))
        assert fingerprint(unet.state_dict()) == before  # the weights that training uses are unchanged
    for state, pictures in zip(states, sampled, strict=False):
        exact.shift(state)
        assert 0 < np.abs(pictures - levels(exact)).mean() < 4
    assert np.array_equal(sampled[0], sampled[2])
    assert np.abs(sampled[0] - sampled[1]).mean() > 4

    twin = rounded.denoiser.unet
    replaced = [name for name, module in twin.named_modules() if isinstance(module, Float8Linear)]
    assert len(replaced) == 2 * 70  # two layers in each of SDXL's transformer blocks
    assert {value.dtype for name, value in twin.named_buffers() if name.endswith("codes")} == {FORMAT}
    own = {name: value.data_ptr() for name, value in unet.named_parameters()}
    shared = {name: value.data_ptr() for name, value in twin.named_parameters()}
    assert shared.items() <= own.items()
    assert own.keys() - shared.keys() == {f"{name}.weight" for name in replaced}


def test_it_changes_the_fingerprint_only_if_it_is_on(standin, monkeypatch):
    monkeypatch.setattr(instruction_set, "provenance", dict)  # as on Intel
    off, on = family_of(standin), family_of(standin, feed_forward_dtype="float8_e4m3fn")
    assert off.fingerprint == digest([standin.revision, "float32", 64])
    assert on.fingerprint != off.fingerprint
    assert on.number_format == off.number_format
    off.shift(Delta())
    levels(off)
    assert off.denoiser.unet is off.pipeline.unet


def test_projections_are_not_in_float8_because_a_small_delta_would_be_lost(standin):
    """By the merge check's measure, for a delta of a hundredth of the weights."""
    family = family_of(standin)
    delta, lost, whole = delta_of(family, 0.01), {"float8": 0.0, "bfloat16": 0.0}, 0.0
    for name in list(family.shapes())[::20]:
        base, change = family.weight(name).float(), delta.module(name)
        roundings = {
            "float8": lambda w: (c := quantise(w))[0].float() * c[1],
            "bfloat16": lambda w: w.bfloat16().float(),
        }
        whole += float(change.square().sum())
        for key, rounding in roundings.items():
            lost[key] += float(rounding_loss(base, change, rounding).square().sum())
    survival = {key: 1 - (value / whole) ** 0.5 for key, value in lost.items()}
    assert survival["float8"] < 0 < 0.7 < survival["bfloat16"]


def test_a_gpu_without_float8_is_refused(monkeypatch):
    unet = type("Unet", (), {"device": torch.device("cuda")})()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    with pytest.raises(MachineFault, match=r"feed_forward_dtype: A GPU cannot compute in float8"):
        with_float8_feed_forward(unet)
