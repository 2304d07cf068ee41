"""A diffusers pipeline: pinned, loaded, shifted, moved."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from stages.files.artifact import folder_digest
from stages.runtime.faults import InputFault


def headers(folder: Path) -> dict[str, tuple[Path, list[int]]]:
    """File and shape of every weight of a model, read without loading any.

    Raises:
        InputFault: there is no safetensors file.
    """
    found: dict[str, tuple[Path, list[int]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        found |= {name: (path, entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    if not found:
        raise InputFault(
            f"{folder}: no safetensors here. Name a model in the format of diffusers as base.options.path, "
            "or fetch it: make weights PROFILE=NAME, or python -m stages.tools.fetch."
        )
    return found


def pinned(root: Path, marker: str, revision: str) -> str:
    """The sha256 over a model's files, once it has been found to be the one that is pinned.

    Raises:
        InputFault: it is missing, is another one, or holds files that could run code.
    """
    if not (root / marker).is_file():
        raise InputFault(
            f"{root}: no {marker} here. Name a model in diffusers format, or fetch it: python -m stages.tools.fetch."
        )
    pickles = [p.name for p in root.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    if pickles:
        raise InputFault(f"{root}: holds {pickles[0]}, which could run code. Only safetensors are read; remove it.")
    found = folder_digest(root)
    if found != revision:
        raise InputFault(
            f"{root}: its revision is {found}, params.yaml pins {revision}. Restore it or pin the new one."
        )
    return found
