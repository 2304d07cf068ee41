"""Models in diffusers format: their weight files, whether they are the pinned revision, and their noise schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.files.artifact import folder_digest
from stages.files.tensors import read_header
from stages.runtime.faults import InputFault


def weight_headers(folder: Path) -> dict[str, tuple[Path, list[int]]]:
    """File and shape of every weight of a model, read without loading any.

    Raises:
        InputFault: the folder has no safetensors file, or one is damaged.
    """
    weights: dict[str, tuple[Path, list[int]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        header, _ = read_header(path)
        weights |= {name: (path, entry["shape"]) for name, entry in header.items()}
    if not weights:
        raise InputFault(
            f"{folder}: no safetensors here. Set base.options.path to a model in diffusers format, "
            "or download it: make weights PROFILE=NAME, or python -m stages.tools.fetch."
        )
    return weights


def check_revision(root: Path, marker: str, revision: str) -> str:
    """Checks that a model is the pinned one.

    Args:
        root: its folder.
        marker: a file that every such folder has.
        revision: the pinned sha256 over its files.

    Returns:
        The revision.

    Raises:
        InputFault: the model is missing, has another revision, or holds files that could run code.
    """
    if not (root / marker).is_file():
        raise InputFault(
            f"{root}: no {marker} here. Set the path to a model in diffusers format, or download it: "
            "python -m stages.tools.fetch."
        )
    pickles = [p.name for p in root.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    if pickles:
        raise InputFault(f"{root}: holds {pickles[0]}, which could run code. Only safetensors are read; remove it.")
    actual = folder_digest(root)
    if actual != revision:
        raise InputFault(
            f"{root}: its revision is {actual}, params.yaml pins {revision}. Restore it or pin the new one."
        )
    return actual


def signal_at(scheduler: Any) -> Tensor:
    """The share of the picture in the variance at each time, alphas_cumprod of the scheduler, [times] float64.

    Where the scheduler rescales it to zero terminal SNR (arXiv 2305.08891), it takes square roots in float32, which
    depend on the processor's vendor; here they are taken in float64.
    """
    from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

    if not scheduler.config.get("rescale_betas_zero_snr"):
        plain: Tensor = scheduler.alphas_cumprod
        return plain.double()
    before = type(scheduler).from_config({**scheduler.config, "rescale_betas_zero_snr": False})
    return torch.cumprod(1 - rescale_zero_terminal_snr(before.betas.double()), 0)
