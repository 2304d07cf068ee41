"""The published CSD checkpoint, a pickle of a training run, to the one file of weights that the metric reads."""

from __future__ import annotations

import argparse
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.core.artifact import sha256
from stages.core.faults import InputFault

from .clip_i import blank
from .csd import NO_TEXT, tower

ARCHITECTURE = "ViT-L-14-quickgelu"  # the published one
HEADS = ("last_layer_style", "last_layer_content")
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


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Its weights, under the published names without the prefix of DataParallel; no code of the pickle runs.

    Raises:
        InputFault: it cannot be read without running code, or is no checkpoint of CSD.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputFault(
            f"{path}: cannot be read without running code that is in it, or is damaged: {reason}"
        ) from None
    weights = checkpoint.get("model_state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        raise InputFault(f"{path}: holds no model_state_dict; it is not the checkpoint that CSD publishes.")
    return {key.removeprefix("module."): value for key, value in weights.items()}


def check(weights: dict[str, Tensor], path: Path, architecture: str = ARCHITECTURE) -> None:
    """
    Raises:
        InputFault: a weight of the tower or a head is missing, or there is one too many, or of another shape.
    """
    model, _ = blank("", architecture, text_cfg=NO_TEXT)
    shapes = {key: tuple(value.shape) for key, value in model.visual.state_dict().items()}
    wanted = {f"backbone.{key}": shape for key, shape in shapes.items() if key != "proj"}
    wanted |= dict.fromkeys(HEADS, shapes["proj"])
    found = {key: tuple(value.shape) for key, value in weights.items()}
    missing, unexpected = sorted({*wanted} - {*found}), sorted({*found} - {*wanted})
    if missing or unexpected:
        example = (missing + unexpected)[0]
        raise InputFault(
            f"{path}: {len(missing)} weights of {architecture} are missing and {len(unexpected)} unexpected, "
            f"such as {example}; nothing was written."
        )
    for key in sorted(wanted):
        if found[key] != wanted[key]:
            raise InputFault(f"{path}: {key} is {found[key]}, {architecture} has {wanted[key]}; nothing was written.")


def convert(path: Path, target: Path, architecture: str = ARCHITECTURE) -> str:
    """Writes the weights that the metric uses as safetensors, float32, and says the file's sha256.

    Raises:
        InputFault: as `read_checkpoint` and `check`.
    """
    weights = read_checkpoint(path)
    check(weights, path, architecture)
    kept = {key: value.float().contiguous() for key, value in tower(weights).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    save_file(kept, draft)
    draft.replace(target)
    return sha256(target)
