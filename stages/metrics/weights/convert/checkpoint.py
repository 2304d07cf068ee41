"""Weights that are published as a pickle, to the safetensors file that a metric reads; no code of the pickle runs."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.files.tensors import save
from stages.files.writing import new_file
from stages.runtime.faults import InputFault

SCALAR = import_module("numpy._core.multiarray").scalar
# All that a training run's pickle may hold beside tensors: its arguments and the numbers of its optimisers.
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 called it
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]


def read(path: Path) -> dict[str, Any]:
    """What the pickle holds.

    Raises:
        InputFault: it cannot be read without running code, or holds something else than weights.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputFault(
            f"{path}: cannot be read without running code that is in it, or is damaged: {reason}"
        ) from None
    if not isinstance(checkpoint, dict):
        raise InputFault(f"{path}: holds no weights by their names.")
    return checkpoint


def check(weights: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], path: Path, architecture: str) -> None:
    """
    Raises:
        InputFault: a weight is missing, or there is one too many, or of another shape.
    """
    missing, unexpected = sorted({*wanted} - {*weights}), sorted({*weights} - {*wanted})
    if missing or unexpected:
        example = (missing + unexpected)[0]
        raise InputFault(
            f"{path}: {len(missing)} weights of {architecture} are missing and {len(unexpected)} unexpected, "
            f"such as {example}; nothing was written."
        )
    for key, shape in sorted(wanted.items()):
        if tuple(weights[key].shape) != shape:
            raise InputFault(
                f"{path}: {key} is {tuple(weights[key].shape)}, {architecture} has {shape}; nothing was written."
            )


def write(weights: Mapping[str, Tensor], target: Path) -> None:
    """In float32, whole or not at all."""
    with new_file(target) as draft:
        save({key: value.float().contiguous() for key, value in weights.items()}, draft)
