"""Inference: no gradients, and on a CPU the products of linear layers by oneDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from stages.runtime.device import device
from stages.runtime.instruction_set import native


@contextmanager
def inference(compiled: bool = False) -> Iterator[None]:
    """Inference within it, also as a decorator of a function.

    Where the instruction set is fixed, MKL has no branch above SSE2 that is equal on processors of every vendor; oneDNN
    computes the same layers with AVX2 on all of them.

    Args:
        compiled: by torch.compile, which brings its own kernels.
    """
    with torch.inference_mode():
        if compiled or native() or device().type != "cpu":
            yield
        else:
            with LinearByOneDnn():
                yield


class LinearByOneDnn(TorchFunctionMode):
    """Within it, linear layers in float32 on a CPU are computed by oneDNN. Without gradients only."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is linear and not kwargs and all(suits(one) for one in args[:2]):
            return torch.ops.mkldnn._linear_pointwise(*args[:2], args[2] if len(args) > 2 else None, "none", [], "")
        return func(*args, **kwargs or {})


def suits(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.numel() > 0
