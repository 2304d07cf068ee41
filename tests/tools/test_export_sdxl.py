"""Export on an SDXL of full depth and a hundredth of the size: every adapted block gets its right name."""

import re

import pytest
import torch

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.core.family import families
from stages.files import tensors
from stages.runtime.seeds import generator
from stages.tools.exchange.exporting import DTYPES, pack
from stages.tools.exchange.importing import read_lora
from tests.support.lora_readers import comfyui, ldm_names, open_lora

LEVELS, LAYERS = 3, 2  # of SDXL's UNet
# Where LDM's SDXL has attention (sd_xl_base.yaml: attention at the second and third level), and how deep.
DEPTHS = {
    **{f"input_blocks_{n}_1": 2 for n in (4, 5)},
    **{f"input_blocks_{n}_1": 10 for n in (7, 8)},
    "middle_block_1": 10,
    **{f"output_blocks_{n}_1": 10 for n in (0, 1, 2)},
    **{f"output_blocks_{n}_1": 2 for n in (3, 4, 5)},
}
TOLERANCE = {"fp16": 1e-3, "fp32": 1e-6}


@pytest.fixture(scope="module")
def family(standin):
    return families.make("sdxl", {"path": str(standin.path), "revision": standin.revision, "pixels": 64})


@pytest.fixture(scope="module")
def delta(family) -> Delta:
    """A sum of two adapters, as after merging two tasks."""
    shapes, terms = family.shapes(), []
    for seed in (0, 1):
        fresh = fresh_adapter(shapes, 2, 3, generator("export", seed))
        g = generator("export up", seed)
        terms.append(Adapter(fresh.a, {n: torch.randn(b.shape, generator=g) for n, b in fresh.b.items()}, fresh.scale))
    return Delta(tuple(terms))


def relative_error(actual: dict[str, torch.Tensor], delta: Delta) -> float:
    """The largest relative error of a module."""
    assert sorted(actual) == delta.modules
    return max(float((actual[n].detach() - exact).norm() / exact.norm()) for n, exact in delta.matrices())


def written(folder, delta, form, dtype, family):
    packed = pack(delta, form, DTYPES[dtype], None, family.module_names())
    path = folder / f"{form}-{dtype}.safetensors"
    tensors.write(path, packed.tensors, packed.metadata)
    return path


def test_all_blocks_of_sdxl_have_their_ldm_names(family, delta, tmp_path):
    names = {
        name.removeprefix("lora_unet_").split(".")[0]
        for name in open_lora(written(tmp_path, delta, "kohya", "fp16", family))[0]
    }
    assert len(names) == len(family.shapes()) == 560
    depths: dict[str, set[int]] = {}
    for name in names:
        match = re.fullmatch(r"(\w+?)_transformer_blocks_(\d+)_attn[12]_to_(q|k|v|out_0)", name)
        block, depth = match[1], int(match[2])
        depths.setdefault(block, set()).add(depth)
    assert depths == {block: set(range(depth)) for block, depth in DEPTHS.items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_comfyui_and_import_read_every_module(family, delta, tmp_path, dtype):
    names = ldm_names(LEVELS, LAYERS, delta.modules)
    path = written(tmp_path, delta, "kohya", dtype, family)
    assert relative_error(comfyui(open_lora(path)[0], names), delta) <= TOLERANCE[dtype]
    back = read_lora(path, family).adapter
    assert relative_error({n: back.module(n) for n in back.a}, delta) <= TOLERANCE[dtype]
    dense = Delta(dense=dict(delta.matrices()))
    assert (
        relative_error(comfyui(open_lora(written(tmp_path, dense, "kohya", dtype, family))[0], names), dense)
        <= TOLERANCE[dtype]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("form", "dtype"), [("kohya", "fp16"), ("diffusers", "fp32")])  # each of both once
def test_diffusers_reads_every_module(family, delta, tmp_path, form, dtype):
    path, pipeline = written(tmp_path, delta, form, dtype, family), family.pipeline
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    try:
        (name,) = pipeline.unet.peft_config
        layers = {module: pipeline.unet.get_submodule(module) for module in delta.modules}
        assert (
            relative_error({m: layer.get_delta_weight(name) for m, layer in layers.items()}, delta) <= TOLERANCE[dtype]
        )
        adapted = [m for m, layer in pipeline.unet.named_modules() if name in getattr(layer, "lora_A", {})]
        assert len(adapted) == 560
    finally:
        pipeline.unload_lora_weights()
