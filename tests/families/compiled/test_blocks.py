"""Blocks that torch.compile compiles in training."""
# ruff: noqa: F811 - fixtures of another file

import copy
import os
from functools import partial

import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from torch._dynamo.utils import counters

from stages.adapters.algebra import Delta
from stages.families.unet.compiled import blocks
from stages.families.unet.compiled.feed_forward import feed_forward
from stages.families.unet.lora import grouped
from tests.families.test_learner import OPTIONS, agree, encodings, family, given, trained  # noqa: F401


def test_the_gated_feed_forward_has_the_gradient_of_diffusers():
    torch.manual_seed(0)
    plain, x = GEGLU(8, 12).requires_grad_(False), torch.randn(2, 5, 8, requires_grad=True)
    ours = partial(feed_forward, plain)
    assert torch.equal(ours(x), plain(x))
    weight = torch.randn(2, 5, 12)
    (expected,), (found,) = (torch.autograd.grad((function(x) * weight).sum(), x) for function in (plain, ours))
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(partial(feed_forward, plain.double()), (x.detach().double().requires_grad_(),))


@pytest.mark.slow
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_compiled_blocks_agree_and_are_compiled_once_for_each_shape(family, encodings, monkeypatch, as_on_a_gpu):
    """Without torch's code generator only group norms are computed otherwise."""
    monkeypatch.setattr(blocks, "BACKEND", "aot_eager")
    plain, unet = trained(family, encodings), family.pipeline.unet
    monkeypatch.setattr(grouped, "in_one_product", lambda *_: as_on_a_gpu)
    unet.to(memory_format=torch.channels_last if as_on_a_gpu else torch.contiguous_format)
    fast = family.model_copy(update={"compile": True})
    counters.clear()
    agree(trained(fast, encodings), plain, 1e-5, 1e-3)
    graphs = counters["stats"]["unique_graphs"]
    places = [part for part in blocks._parts() for module in unet.modules() if isinstance(module, part.kind)]
    assert 0 < graphs < len(places)
    assert not counters["graph_break"]
    trained(fast, encodings, frozen=given(family).delta)
    assert counters["stats"]["unique_graphs"] == graphs
    family.shift(Delta())
    unet.to(memory_format=torch.contiguous_format)
    replaced = {"forward"} | {part.method for part in blocks._parts()}
    assert not any(replaced & module.__dict__.keys() for module in unet.modules())


@pytest.mark.slow
def test_a_compiled_decoder_agrees(family, monkeypatch):
    """In the layout that it has on a GPU."""
    monkeypatch.setattr(blocks, "BACKEND", "aot_eager")
    torch.manual_seed(0)
    decoder = copy.deepcopy(family.pipeline.vae.decoder)
    latents = torch.randn(1, decoder.conv_in.in_channels, 8, 8)
    with torch.inference_mode():
        expected = decoder(latents)
        decoder.to(memory_format=torch.channels_last)
        with blocks.compiled_blocks(decoder):
            torch.testing.assert_close(decoder(latents), expected, rtol=1e-4, atol=1e-5)


def test_compiled_code_is_cached_in_the_home_unless_another_folder_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    blocks.use_cache()
    folder = tmp_path / "palimpsest" / "compiled"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    blocks.use_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    blocks.use_cache()
    assert not os.environ["TORCHINDUCTOR_CACHE_DIR"]


@pytest.mark.parametrize("option", [{"layers": "peft"}, {"checkpointing": True}])
def test_only_grouped_layers_without_checkpointing_are_compiled(family, option):
    blocks = [one for one in family.pipeline.unet.modules() if isinstance(one, BasicTransformerBlock)]
    fast = family.model_copy(update={"compile": True})
    fast.learner(None, given(family), OPTIONS.model_copy(update=option))
    assert not any("forward" in block.__dict__ for block in blocks)
    fast.learner(None, given(family), OPTIONS)
    assert all("forward" in block.__dict__ for block in blocks)
    family.shift(Delta())
