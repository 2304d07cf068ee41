"""Functions with a gradient of their own are compiled and cached by what they compute."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.families.unet.compiled import own_gradients
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


LOGS = "+torch._functorch._aot_autograd.autograd_cache,+torch._inductor.codecache"
# A process of its own: what other tests have compiled and set would count, too.
COMPILED = """
import importlib.util, json, sys
import torch
from torch._dynamo.utils import counters
from stages.families.unet.compiled.blocks import compile_once

found = []
for path in sys.argv[1:]:
    torch._dynamo.reset()
    spec = importlib.util.spec_from_file_location("a_module_with_a_gradient", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.ones(3, requires_grad=True)
    compile_once(lambda x: module.doubled(x).sin())(x).sum().backward()
    found.append(round(float(x.grad[0] / torch.cos(torch.tensor(2.0))), 4))
print(json.dumps([found, counters["aot_autograd"]]))
"""


def module_with(folder: Path, factor: float) -> Path:
    path = folder / f"{factor}.py"
    path.write_text(MODULE.replace("FACTOR", str(factor)), "utf-8")
    return path


@pytest.mark.slow
def test_the_cache_tells_functions_with_other_gradients_apart(tmp_path):
    """As two versions of the project do that share a cache, in which only the backward pass differs.

    Where much else runs on the machine, torch has compiled what was in the cache once more, with the right result; so
    there are two chances of a hit, and torch's log says why there was none.
    """
    paths = [str(module_with(tmp_path, factor)) for factor in (2.0, 3.0, 2.0, 2.0)]
    own = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": ".", "TORCH_LOGS": LOGS}
    environment = {**os.environ, **own}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, *paths], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    factors, counts = json.loads(done.stdout.splitlines()[-1])
    assert factors == [2.0, 3.0, 2.0, 2.0]
    missed, hit = (counts.get(f"autograd_cache_{kind}", 0) for kind in ("miss", "hit"))
    assert missed >= 2, counts
    assert hit >= 1, f"{counts} {done.stderr}"
    assert missed + hit == 4, counts


def test_a_marked_function_is_one_operation_of_the_first_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(own_gradients, "_marked", [])
    spec = importlib.util.spec_from_file_location("a_module_with_a_gradient", module_with(tmp_path, 2.0))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    graphs, function = [], module.doubled
    torch._dynamo.reset()
    own_gradients.use_own_gradients()
    torch.compile(lambda x: function(x).sin(), backend=lambda graph, _: graphs.append(graph) or graph.forward)(
        torch.ones(3)
    )
    (graph,) = graphs
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [function]


def test_all_functions_with_gradients_in_blocks_are_marked():
    assert {gated, normalised, adapted} <= set(own_gradients._marked)
