"""Group norm of pictures whose channels lie side by side: torch's own is the judge."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.families.unet.compiled import group_norm as module
from stages.families.unet.compiled.group_norm import Normalised, group_norm, moments

LAST = torch.channels_last


def norm_of(channels: int, groups: int, dtype: torch.dtype = torch.float64) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, dtype=dtype).requires_grad_(False)
    norm.weight.normal_()
    norm.bias.normal_()
    return norm


@pytest.fixture(autouse=True)
def few_pixels_at_once(monkeypatch):
    """So that small pictures are added in parts, too."""
    monkeypatch.setattr(module, "SOME", (4, 2))
    monkeypatch.setattr(module, "SUMS", 8)


SIDE = st.integers(2, 6)


@given(n=st.integers(1, 3), groups=st.integers(1, 4), each=st.integers(1, 3), height=SIDE, width=SIDE)
def test_it_is_torchs_and_so_is_its_gradient(n, groups, each, height, width):
    torch.manual_seed(0)
    norm = norm_of(groups * each, groups)
    shape = (n, groups * each, height, width)
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    gradient = torch.randn(shape, dtype=torch.float64).to(memory_format=LAST)
    expected, found = norm(x), group_norm(norm, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, gradient) for y in (found, expected)))
    assert found.is_contiguous(memory_format=LAST)


def test_its_gradient_is_that_of_its_result():
    norm = norm_of(6, 3)
    x = torch.randn(2, 6, 2, 4, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Normalised.apply(x, norm.weight, norm.bias, 3, norm.eps), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compiled_it_has_the_same_gradient(dtype):
    torch.manual_seed(0)
    norm, shape = norm_of(6, 3, dtype), (2, 6, 4, 4)
    x, gradient = (torch.randn(shape, dtype=dtype).to(memory_format=LAST) for _ in range(2))
    x.requires_grad_()
    compiled = torch.compile(group_norm, backend="aot_eager", dynamic=False)
    expected, found = (torch.autograd.grad(function(norm, x), x, gradient)[0] for function in (group_norm, compiled))
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected)


def test_rows_of_channels_as_an_attention_has_them():
    norm, rows = norm_of(6, 3), torch.randn(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(group_norm(norm, rows.mT), norm(rows.mT))


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
def test_a_mean_far_from_zero_takes_no_digits_from_the_variance(offset):
    """In float32, in which sums of squares would have lost all of them."""
    torch.manual_seed(0)
    rows = (torch.randn(2, 64, 8) + offset).float()
    mean, variance = moments(rows, 4)
    exact = rows.double().view(2, 64, 4, 2)
    torch.testing.assert_close(mean.double(), exact.mean((1, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance.double(), exact.var((1, 3), correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 6e4])
def test_equal_numbers_have_no_variance(value):
    mean, variance = moments(torch.full((1, 64, 6), value), 2)
    torch.testing.assert_close(mean, torch.full((1, 2), value))
    assert float(variance.max()) <= 1e-6 * value
    assert float(variance.min()) >= 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    torch.manual_seed(0)
    norm, x = norm_of(8, 2, dtype), (100 + 3 * torch.randn(2, 8, 8, 8)).to(dtype).to(memory_format=LAST)
    found = group_norm(norm, x)
    assert found.dtype == dtype
    exact = norm_of(8, 2)
    exact.load_state_dict({name: value.double() for name, value in norm.state_dict().items()})
    expected = exact(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("case", ["another layout", "weights that are trained", "no weights"])
def test_torch_computes_what_it_is_not_for(monkeypatch, case):
    monkeypatch.delattr(module, "Normalised")
    norm = nn.GroupNorm(2, 4, affine=case != "no weights").requires_grad_(case == "weights that are trained")
    x = torch.randn(1, 4, 3, 3).contiguous(memory_format=torch.contiguous_format if case == "another layout" else LAST)
    assert torch.equal(group_norm(norm, x), norm(x))
