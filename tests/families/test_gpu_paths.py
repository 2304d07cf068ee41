"""What a training on a GPU computes otherwise, tried on a CPU: sums in one product, pinned copies."""
# ruff: noqa: F811 - fixtures of another file

from types import SimpleNamespace

import pytest
import torch

from stages.adapters import transfer
from stages.adapters.algebra import Delta
from stages.families.unet.lora import attention, grouped
from stages.families.unet.lora.attention import Adapted
from tests.families.test_learner import (  # noqa: F401
    OPTIONS,
    ROWS,
    agree,
    encodings,
    family,
    given,
    reference,
    trained,
)


@pytest.fixture
def in_one_product(monkeypatch):
    """Computes as on a GPU: W x and scale B A x in one product."""
    monkeypatch.setattr(grouped, "in_one_product", lambda *_: True)


@pytest.mark.parametrize("fixed_a", [False, True])
def test_one_product_for_the_sum_agrees_with_separate_ones(family, encodings, reference, monkeypatch, fixed_a):
    options = OPTIONS.model_copy(update={"fixed_a": fixed_a})
    expected = trained(family, encodings, options) if fixed_a else reference
    monkeypatch.setattr(grouped, "in_one_product", lambda *_: True)
    agree(trained(family, encodings, options), expected, 1e-5, 3e-4)


@pytest.mark.parametrize(
    ("device", "rank", "dtype", "expected"),
    [("cpu", 64, "float16", False), ("cuda", 64, "float16", True), ("cuda", 8, "bfloat16", True),
     ("cuda", 4, "float16", False), ("cuda", 4, "float32", True), ("cuda", 1, "float32", False)],
)  # fmt: skip
def test_one_product_is_computed_where_its_rows_are_aligned(device, rank, dtype, expected):
    assert attention.in_one_product(torch.device(device), rank, getattr(torch, dtype)) == expected


def beside(up: torch.Tensor, weight: torch.Tensor, matrices: int) -> torch.Tensor:
    """[W, B] as `Grouped` lays it out: each B beside its own rows of W."""
    chains = len(weight)
    parts = [torch.block_diag(*(up[n * chains + chain] for n in range(matrices))) for chain in range(chains)]
    return torch.cat([weight, torch.stack(parts)], -1)


@pytest.mark.parametrize("chains", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_one_product_has_the_gradient_of_the_sum(chains, scale):
    torch.manual_seed(0)
    matrices, rank, out, width = 3, 2, 4, 5
    x, down = torch.randn(chains, 6, width), torch.randn(chains, matrices * rank, width)
    up, weight = torch.randn(matrices * chains, out, rank), torch.randn(chains, matrices * out, width)
    bias = torch.randn(matrices * out).double()

    def product(x, down, up):
        whole = beside(up.detach(), weight.double(), matrices)
        return Adapted.apply(x, whole, bias, down, up, scale)

    given = [value.double().requires_grad_() for value in (x, down, up)]
    assert torch.autograd.gradcheck(product, given)
    x, down, up = given
    delta = scale * beside(up, weight.double(), matrices)[..., width:] @ down
    torch.testing.assert_close(product(x, down, up), x @ (weight.double() + delta).mT + bias)


def test_a_small_scale_costs_no_digits_in_float16():
    """B after some steps, and the scale of `alpha: 1`."""
    torch.manual_seed(0)
    rank, out, width, scale = 64, 32, 48, 1 / 64
    x, down, up = torch.randn(1, 8, width), torch.randn(1, rank, width) / rank, 1e-4 * torch.randn(1, out, rank)
    x, down, up = (value.half() for value in (x, down, up))
    whole = torch.cat([torch.zeros(1, out, width).half(), up], -1)
    expected = scale * x.double() @ down.double().mT @ up.double().mT
    result = Adapted.apply(1024 * x, whole, None, down, up, scale).double() / 1024  # its digits are those of float16
    assert float((result - expected).norm() / expected.norm()) < 1e-3


def test_one_product_without_the_adapter_is_the_frozen_model(family, encodings, in_one_product):
    learner = family.learner(given(family).delta, given(family), OPTIONS)
    learner.prepare(*encodings)
    inputs = learner.inputs(ROWS)
    learner.loss(inputs)  # B is beside the frozen weights now
    plain = family.learner(given(family).delta, given(family), OPTIONS.model_copy(update={"layers": "peft"}))
    plain.prepare(*encodings)
    expected = plain.answer(plain.inputs(ROWS))
    family.shift(Delta())
    learner.family.shift(learner.frozen)
    learner._install()
    torch.testing.assert_close(learner.answer(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fixed_a", [False, True])
def test_an_adapter_goes_to_the_device_and_back_unchanged(family, monkeypatch, fixed_a):
    """Through buffers of some matrices each, as on a GPU; what is returned is nobody else's memory."""
    own, options = given(family), OPTIONS.model_copy(update={"fixed_a": fixed_a})
    plain = family.learner(None, own, options)
    monkeypatch.setattr(transfer, "_has_own_memory", lambda on: True)
    monkeypatch.setattr(transfer, "_pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    monkeypatch.setattr(transfer, "_upload", lambda buffer, on: buffer.clone())
    done = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(transfer, "_download", lambda values, places, on: torch._foreach_copy_(places, values) and done)
    monkeypatch.setattr(transfer, "_event", lambda: done)
    monkeypatch.setattr(transfer, "CHUNK", 1 << 14)
    learner = family.learner(None, own, options)
    for mine, theirs in zip(learner.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    copies = [plain.adapter(), learner.adapter()]
    with torch.no_grad():
        for parameter in (*learner.parameters(), *plain.parameters()):
            parameter.zero_()
    for copy in copies:
        assert list(copy.a) == list(copy.b) == sorted(own.a)
        assert all(torch.equal(copy.a[n], own.a[n]) and torch.equal(copy.b[n], own.b[n]) for n in own.a)
    family.shift(Delta())
