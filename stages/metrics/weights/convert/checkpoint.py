"""Reads weights published as a pickle without running any code in it, and writes them as safetensors."""

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
from stages.runtime.faults import InputFault, first_line

SCALAR = import_module("numpy._core.multiarray").scalar
# What the pickle of a training run may hold besides tensors: its arguments and the state of its optimisers.
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),  # its name in numpy 1
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]


def read(path: Path) -> dict[str, Any]:
    """Reads a pickled checkpoint.

    Raises:
        InputFault: reading it would run code, it is damaged, or it is not a dictionary.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputFault(
            f"{path}: cannot be read without running code in it, or is damaged: {first_line(error)}."
        ) from None
    if not isinstance(checkpoint, dict):
        raise InputFault(f"{path}: has no named weights.")
    return checkpoint


def check(
    weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path, architecture: str
) -> None:
    """Checks names and shapes of weights.

    Args:
        weights: tensors by name.
        expected: shapes by name.
        path: the checkpoint, for messages.
        architecture: its name, for messages.

    Raises:
        InputFault: a weight is missing, unexpected or has another shape.
    """
    missing, unexpected = sorted({*expected} - {*weights}), sorted({*weights} - {*expected})
    if missing or unexpected:
        example = (missing + unexpected)[0]
        raise InputFault(
            f"{path}: {len(missing)} weights of {architecture} are missing and {len(unexpected)} unexpected, "
            f"such as {example}. Nothing was written."
        )
    for key, shape in sorted(expected.items()):
        if tuple(weights[key].shape) != shape:
            raise InputFault(
                f"{path}: {key} is {tuple(weights[key].shape)}, {architecture} has {shape}. Nothing was written."
            )


def write(weights: Mapping[str, Tensor], target: Path) -> None:
    """Writes the weights in float32, atomically."""
    with new_file(target) as draft:
        save({key: value.float().contiguous() for key, value in weights.items()}, draft)
