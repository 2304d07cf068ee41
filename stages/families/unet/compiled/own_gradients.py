"""Functions that have a gradient of their own, in compiled code.

torch.compile traces Python twice: first to a graph of functions, then to one of operations, which it compiles and
caches on disk. The first pass runs in every process, and through an autograd.Function it is slow, since it follows its
forward and its backward pass: through those of SDXL's blocks for as long as everything else takes that a start from the
cache does. It leaves marked functions as they are; the second pass follows them into their operations.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_marked: list[Callable[..., object]] = []


def own_gradient(function: Callable[P, R]) -> Callable[P, R]:
    """Marks a function of a module, which depends on its arguments and on nothing outside its module."""
    _marked.append(function)
    return function


def use_own_gradients() -> None:
    """Tells torch of the functions that are marked by now."""
    for function in _marked:
        _use(function)


@cache
def _use(function: Callable[..., object]) -> None:
    from torch._inductor import config

    torch.compiler.allow_in_graph(function)  # type: ignore[no-untyped-call]
    name = f"{function.__module__}.{function.__qualname__}"
    # The source is part of the key: compiled code of another version of the module is not used. A new dictionary, since
    # torch does not see changes within one.
    key = hashlib.sha256(inspect.getsource(sys.modules[function.__module__]).encode()).hexdigest()
    config.unsafe_marked_cacheable_functions = {**config.unsafe_marked_cacheable_functions, name: key}
