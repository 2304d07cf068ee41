"""Linear layers in inference, against torch's own and across batches."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.runtime import inference as module
from stages.runtime.inference import LinearByOneDnn, inference


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    monkeypatch.setattr(module, "native", lambda: False)


@pytest.mark.parametrize("shape", [(3, 16), (2, 7, 16), (1, 1, 16), (16,), (0, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_that_of_torch(shape, bias):
    layer, x = nn.Linear(16, 24, bias), torch.randn(shape)
    expected = layer(x)
    with inference():
        result = layer(x)
        by_name = functional.linear(input=x, weight=layer.weight, bias=layer.bias)
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_name, expected.detach(), atol=1e-5, rtol=1e-5)


def test_other_number_formats_stay_with_torch():
    for dtype in (torch.float64, torch.bfloat16):
        layer, x = nn.Linear(8, 8).to(dtype), torch.randn(2, 8, dtype=dtype)
        with inference():
            assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_it_serves_where_the_instruction_set_is_fixed_and_nowhere_else(monkeypatch):
    layer, x, calls = nn.Linear(2, 2), torch.ones(1, 2), []
    intercept = LinearByOneDnn.__torch_function__

    def spy(self, func, *args):
        calls.append(func)
        return intercept(self, func, *args)

    monkeypatch.setattr(LinearByOneDnn, "__torch_function__", spy)

    @inference()
    def embed():
        assert torch.is_inference_mode_enabled()
        layer(x)

    embed()
    assert functional.linear in calls
    calls.clear()
    with inference(compiled=True):
        assert torch.is_inference_mode_enabled()
        layer(x)
    monkeypatch.setattr(module, "native", lambda: True)
    embed()
    assert not calls
