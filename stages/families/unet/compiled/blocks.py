"""torch.compile: the whole UNet or its repeated blocks in sampling, repeated blocks in training and decoding.

In training a block's forward and backward pass are compiled, once for all blocks of one shape, and the step around them
stays as it is: on a GPU the compiled kernels are recorded in the same CUDA graph. Elementwise operations between two
products become one kernel, which rounds otherwise than the kernels that it replaces.

In sampling the whole UNet gives the fewest kernels and takes minutes to compile. Its blocks alone are compiled once per
shape: SDXL's 70 transformer blocks, the layers around them, 17 blocks of convolutions and the last norm are 20 graphs.
Group norms inside them are computed as `group_norm.py` does it.

Compiled code is cached on disk by content. It is loaded as code, so the cache is in the user's home and not in a
project, which may be somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.families.unet.compiled.feed_forward import feed_forward
from stages.families.unet.compiled.group_norm import group_norm
from stages.families.unet.compiled.own_gradients import use_own_gradients
from stages.runtime.faults import MachineFault, first_line

BACKEND = "inductor"
SHAPES = 256  # of one block that are compiled; after torch's 8 the code of a step would depend on which came first


def compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through torch.compile, which needs Triton on a GPU and a C++ compiler on a CPU.

    Returns:
        A function of the same arguments. It raises MachineFault if it cannot be compiled.
    """
    from torch._dynamo.exc import ShortenTraceback

    from stages.families.unet.compiled.choices import use_choices

    use_cache()
    use_choices()
    use_own_gradients()
    compiled = torch.compile(function, dynamic=False, backend=BACKEND)

    def call(*args: Any, **options: Any) -> Any:
        try:
            return compiled(*args, **options)
        except ShortenTraceback as error:  # also without Triton, or on a GPU that is too old for it
            reason = first_line(getattr(error, "inner_exception", error)).rstrip(".")
            raise MachineFault(
                f"base.options.compile: torch.compile fails on this machine: {reason}. Set it to false."
            ) from None

    return call


def use_cache() -> None:
    """Sets where torch caches compiled code, unless TORCHINDUCTOR_CACHE_DIR is set or the home cannot be written.

    Torch's own choice is a folder of temporary files, which a restart may delete.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "palimpsest", "compiled")
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def compile_blocks(model: nn.Module, training: bool = False) -> None:
    """Compiles the repeated parts of a UNet or of a decoder, until `restore_blocks`.

    Args:
        model: has blocks of transformers and of convolutions.
        training: gradients flow back through the blocks.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    for module, part in _places(model):
        if training or not part.training:
            module.__dict__[part.method] = Replaced(module, part.function, _compiled(part, BACKEND)).call


def restore_blocks(model: nn.Module) -> None:
    """Undoes `compile_blocks`."""
    for module, part in _places(model):
        module.__dict__.pop(part.method, None)


@contextmanager
def compiled_blocks(model: nn.Module) -> Iterator[None]:
    """Within it all repeated parts of a model are compiled."""
    compile_blocks(model)
    try:
        yield
    finally:
        restore_blocks(model)


@dataclass(frozen=True)
class Part:
    """A method of repeated modules that is replaced by a function, which is compiled once for each shape, or becomes
    part of the compiled block that calls it."""

    kind: type[Any]
    method: str
    function: Callable[..., Any]
    training: bool = False  # only there


@dataclass(frozen=True)
class Replaced:
    """A method of one module. Code that calls it depends on no object's identity, since it is a method of an object."""

    module: nn.Module
    function: Callable[..., Any]
    compiled: Callable[..., Any]

    def call(self, *args: Any, **options: Any) -> Any:
        inside = torch.compiler.is_compiling()  # of another function, whose code this becomes part of
        return (self.function if inside else self.compiled)(self.module, *args, **options)


@cache
def _compiled(part: Part, _: str) -> Callable[..., Any]:
    return compile_once(part.function)


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, Part]]:
    """Each module of which something is replaced, and what."""
    return ((module, part) for module in model.modules() for part in _parts() if isinstance(module, part.kind))


@cache
def _parts() -> tuple[Part, ...]:
    """Blocks of transformers and of convolutions, what stands before and after the former, their gated feed-forward,
    and group norms."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    before, after = "_operate_on_continuous_inputs", "_get_output_for_continuous_inputs"
    return (
        Part(BasicTransformerBlock, "forward", BasicTransformerBlock.forward),
        Part(ResnetBlock2D, "forward", ResnetBlock2D.forward),
        Part(Transformer2DModel, before, Transformer2DModel._operate_on_continuous_inputs),
        Part(Transformer2DModel, after, _to_pixels),
        Part(nn.GroupNorm, "forward", group_norm),
        Part(GEGLU, "forward", feed_forward, training=True),
    )


def _to_pixels(
    self: Any, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
) -> Tensor:
    """As diffusers' method, except that rows of channels stay in this order, which is that of channels_last."""
    if self.use_linear_projection:
        hidden_states = self.proj_out(hidden_states)
    pixels = hidden_states.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2)
    return residual + (pixels if self.use_linear_projection else self.proj_out(pixels))
