"""Functions with a gradient of their own are compiled and cached by what they compute."""

import importlib.util
import sys

import pytest
import torch
from torch._dynamo.utils import counters

from stages.families.unet.compiled import own_gradients
from stages.families.unet.compiled.blocks import compile_once
from stages.families.unet.compiled.feed_forward import gated
from stages.families.unet.compiled.group_norm import normalised
from stages.families.unet.lora.attention import adapted

MODULE = """
import torch
from stages.families.unet.compiled.own_gradients import own_gradient

@own_gradient
def doubled(x):
    return Doubled.apply(x)

class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * FACTOR
"""


@pytest.fixture
def module_with(tmp_path, monkeypatch):
    """Imports the module with one factor after another, under the same name; returns its function."""
    monkeypatch.setattr(own_gradients, "_marked", [])

    def imported(factor: float):
        path = tmp_path / f"{factor}.py"
        path.write_text(MODULE.replace("FACTOR", str(factor)), "utf-8")
        spec = importlib.util.spec_from_file_location("a_module_with_a_gradient", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module.doubled

    return imported


@pytest.mark.slow
def test_the_cache_tells_functions_with_other_gradients_apart(module_with, tmp_path, monkeypatch):
    """As two versions of the project do that share a cache, in which only the backward pass differs."""

    def factor_of_compiled(factor: float) -> float:
        torch._dynamo.reset()
        function, x = module_with(factor), torch.ones(3, requires_grad=True)
        compile_once(lambda x: function(x).sin())(x).sum().backward()
        return float(x.grad[0] / torch.cos(torch.tensor(2.0)))

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    counters.clear()
    assert [round(factor_of_compiled(factor), 4) for factor in (2.0, 3.0, 2.0)] == [2.0, 3.0, 2.0]
    cached = {name: count for name, count in counters["aot_autograd"].items() if name.startswith("autograd_cache")}
    assert cached == {"autograd_cache_miss": 2, "autograd_cache_saved": 2, "autograd_cache_hit": 1}


def test_a_marked_function_is_one_operation_of_the_first_graph(module_with):
    graphs = []
    torch._dynamo.reset()
    function = module_with(2.0)
    own_gradients.use_own_gradients()
    torch.compile(lambda x: function(x).sin(), backend=lambda graph, _: graphs.append(graph) or graph.forward)(
        torch.ones(3)
    )
    (graph,) = graphs
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [function]


def test_all_functions_with_gradients_in_blocks_are_marked():
    assert {gated, normalised, adapted} <= set(own_gradients._marked)
