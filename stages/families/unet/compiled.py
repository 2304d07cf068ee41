"""torch.compile: the whole UNet or its repeated blocks in sampling, its repeated blocks in training.

In training a block's forward and backward pass are compiled, once for all blocks of one shape, and the step around them
stays as it is: on a GPU the compiled kernels are recorded in the same CUDA graph. Elementwise operations between two
products become one kernel, which rounds otherwise than the kernels that it replaces.

In sampling the whole UNet gives the fewest kernels and takes minutes to compile. Its blocks alone are compiled once per
shape: SDXL's 70 transformer blocks and 17 blocks of convolutions are 15 graphs.

Compiled code is cached on disk by content. It is loaded as code, so the cache is in the user's home and not in a
project, which may be somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.runtime.faults import MachineFault

BACKEND = "inductor"
SHAPES = 256  # of one block that are compiled; after torch's 8 the code of a step would depend on which came first


def compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through torch.compile, which needs Triton on a GPU and a C++ compiler on a CPU.

    Returns:
        A function of the same arguments. It raises MachineFault if it cannot be compiled.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    use_cache()
    compiled = torch.compile(function, dynamic=False, backend=BACKEND)

    def call(*args: Any, **options: Any) -> Any:
        try:
            return compiled(*args, **options)
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).splitlines()[0]
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


def compile_blocks(unet: nn.Module) -> None:
    """Compiles the blocks of transformers and of convolutions, until `restore_blocks`."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    for number, kind in enumerate(_kinds()):
        for block in _blocks(unet, kind):
            block.__dict__["forward"] = partial(_compiled_forward(number, BACKEND), block)


def restore_blocks(model: nn.Module) -> None:
    """Undoes `compile_blocks`."""
    for block in _blocks(model, *_kinds()):
        block.__dict__.pop("forward", None)


@contextmanager
def compiled_blocks(model: nn.Module) -> Iterator[None]:
    """Within it all repeated blocks of a model are compiled."""
    compile_blocks(model)
    try:
        yield
    finally:
        restore_blocks(model)


@cache
def _compiled_forward(kind: int, _: str) -> Callable[..., Any]:
    return compile_once(_kinds()[kind].forward)


def _blocks(model: nn.Module, *kinds: type[nn.Module]) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, kinds))


def _kinds() -> tuple[type[nn.Module], ...]:
    """Blocks of transformers, and of convolutions."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    return BasicTransformerBlock, ResnetBlock2D
