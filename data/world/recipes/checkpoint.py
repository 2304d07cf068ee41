"""Checkpoints, from which a killed training continues: folders of safetensors files, none too large for code hosts."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

LARGEST = 14_000_000  # bytes of tensors in one file


def _flat(opts: list[Optimizer]) -> dict[str, Tensor]:
    """The state of the optimisers under names `opt.number.parameter.entry`."""
    return {
        f"opt.{i}.{index}.{entry}": value.detach().clone() if isinstance(value, Tensor) else torch.tensor(float(value))
        for i, opt in enumerate(opts)
        for index, state in opt.state_dict()["state"].items()
        for entry, value in state.items()
    }


def _unflat(opts: list[Optimizer], saved: dict[str, Tensor]) -> None:
    for i, opt in enumerate(opts):
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in saved.items():
            if name.startswith(f"opt.{i}."):
                _, _, index, entry = name.split(".", 3)
                states.setdefault(int(index), {})[entry] = value
        opt.load_state_dict({"state": states, "param_groups": opt.state_dict()["param_groups"]})


def shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The same tensors in groups of at most LARGEST bytes, which are filled one after another."""
    heaps: list[dict[str, Tensor]] = [{}]
    full = 0
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if heaps[-1] and full + size > LARGEST:
            heaps.append({})
            full = 0
        heaps[-1][name] = value
        full += size
    return heaps


def save(
    folder: Path, model: nn.Module, average: dict[str, Tensor], opts: list[Optimizer], steps: int, seconds: float
) -> None:
    """Writes beside the folder and renames, so that a kill leaves the old folder or the new one.

    `steps` and `seconds` are those of the training so far.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()} | _flat(opts)
    tensors["done"] = torch.tensor([steps, seconds], dtype=torch.float64)
    fresh, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for i, heap in enumerate(shards(tensors)):
        save_file({k: v.detach().cpu().clone().contiguous() for k, v in heap.items()}, fresh / f"{i:02d}.safetensors")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint; empty if there is none."""
    kept = folder if folder.exists() else folder.with_suffix(".old")
    saved: dict[str, Tensor] = {}
    for file in sorted(kept.glob("*.safetensors")):
        saved |= load_file(file)
    return saved


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def average(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a training.

    Raises:
        FileNotFoundError: it has not begun.
    """
    saved = part(read(folder), "average.")
    if not saved:
        raise FileNotFoundError(f"nothing has been trained in {folder} yet")
    return saved


def restore(folder: Path, model: nn.Module, average: dict[str, Tensor], opts: list[Optimizer]) -> tuple[int, float]:
    """Restores everything from the checkpoint, if there is one; returns the steps and seconds done."""
    saved = read(folder)
    if not saved:
        return 0, 0.0
    model.load_state_dict(part(saved, "model."))
    for key, value in part(saved, "average.").items():
        average[key].copy_(value)
    _unflat(opts, saved)
    return int(saved["done"][0]), float(saved["done"][1])
