"""Safetensors files: a reader that trusts nothing, and a writer whose output is reproducible.

The library's own writer orders metadata by a hash map, differently in every run, so equal adapters would give different
files. The format is a length, a JSON header and the numbers; this writer sorts the header and the numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialise
from torch import Tensor

from stages.files.strict_json import parse_json
from stages.files.untrusted import is_pickle
from stages.files.writing import write_file
from stages.runtime.faults import InputFault, MachineFault, first_line
from stages.runtime.formatting import size

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
SCALARS = ("F64", "I64", "I32", "I16", "I8", "U8")  # number formats of single numbers, besides those
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_HEADER, MAX_TENSORS = 16 << 20, 50_000  # an adapter of SDXL's whole UNet has some 5,000 tensors
MAX_SIDES, MAX_SIDE = 8, 1 << 40  # of a tensor
Header = dict[str, dict[str, Any]]


def _ordered(tensors: Mapping[str, Tensor]) -> list[str]:
    """Sorts by element size, widest first, as readers expect for alignment; then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    assert sys.byteorder == "little", "the format is little-endian"
    for name in _ordered(tensors):
        value = tensors[name].detach().cpu().contiguous()
        yield value.reshape(-1).view(torch.uint8).numpy().tobytes()


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over all numbers in file order, which kohya and modelspec call the hash of a model."""
    hasher = hashlib.sha256()
    for chunk in _chunks(tensors):
        hasher.update(chunk)
    return hasher.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors and metadata; equal content gives equal bytes.

    Raises:
        MachineFault: the disk is full or the folder cannot be written; an existing file stays unchanged.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in _ordered(tensors):
        value = tensors[name]
        end = offset + value.nbytes
        header[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)

    def parts() -> Iterator[bytes]:
        yield len(encoded).to_bytes(8, "little")
        yield encoded
        yield from _chunks(tensors)

    write_file(path, parts(), offset + len(encoded) + 8)


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors with the library's own writer, for files between stages; without metadata it is reproducible too.

    Raises:
        OSError: the disk is full or the folder cannot be written (the library raises its own error for that).
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Returns the content of a safetensors file with these tensors."""
    return bytes(serialise(dict(tensors)))


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file from its content, which must have been verified before."""
    tensors: dict[str, Tensor] = deserialise(content)
    return tensors


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors and metadata of an untrusted file.

    Raises:
        InputFault: it is a pickle, not safetensors, truncated, inconsistent, or contains other than finite floats.
        MachineFault: not enough memory.
    """
    header, metadata = read_header(path)
    for name, entry in header.items():
        if entry["dtype"] not in (*BYTES, *(SCALARS if entry["shape"] in ([], [1]) else ())):
            raise InputFault(f"{path}: {name} is {entry['dtype']}; adapters must be F16, BF16 or F32. Convert it.")
    return load_tensors(path), metadata


def read_header(path: Path) -> tuple[Header, dict[str, str]]:
    """Reads the header and the metadata of an untrusted file, and checks them against the file's length.

    Raises:
        InputFault: as `read`.
    """
    if path.suffix.lower() in PICKLED:
        raise InputFault(f"{path}: {path.suffix} files can run code. Only safetensors are read.")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputFault(f"{path}: not a regular file. Give a safetensors file.")
        with path.open("rb") as file:
            head = file.read(9)
            if is_pickle(head, safetensors=True):
                raise InputFault(
                    f"{path}: is a pickle, whatever its name says; it could run code. Only safetensors are read."
                )
            length = int.from_bytes(head[:8], "little")
            if status.st_size < 10 or length < 2 or length > min(status.st_size - 8, MAX_HEADER):
                raise InputFault(f"{path}: not safetensors, or truncated: {status.st_size} bytes. Copy it again.")
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise InputFault(f"{path}: cannot be read: {error.strerror}. Copy it again.") from None
    try:
        tree = parse_json(text)
        metadata = tree.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()) or len(tree) > MAX_TENSORS:
            raise ValueError("metadata other than strings, or too many tensors")
        if not all(name.isprintable() for name in tree):
            raise ValueError("names with control characters")
        _check_extents(tree, status.st_size - 8 - length)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = first_line(error)[:200]
        raise InputFault(f"{path}: its safetensors header is wrong: {reason}. Copy it again.") from None
    return tree, metadata


def _check_extents(header: Header, size: int) -> None:
    """Raises ValueError unless the tensors fill the rest of the file without gaps or overlaps."""
    offset = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        shape, width = entry["shape"], BYTES.get(entry["dtype"])
        if len(shape) > MAX_SIDES or not all(type(side) is int and 0 <= side <= MAX_SIDE for side in shape):
            raise ValueError(f"{name} has an impossible shape")
        if type(begin) is not int or type(end) is not int or begin != offset or end < begin:
            raise ValueError(f"{name} does not start where the tensor before it ends")
        if width and end - begin != math.prod(shape) * width:
            raise ValueError(f"{name} has {end - begin} bytes for shape {shape} of {entry['dtype']}")
        offset = end
    if offset != size:
        raise ValueError(f"it lists {offset} bytes of numbers, the file has {size}")


OUT_OF_MEMORY = re.compile("(not|can't) allocate memory")  # torch and the system raise no MemoryError but say this


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Loads the tensors of a safetensors file.

    Raises:
        InputFault: the file is missing, is not safetensors, or contains other than finite floats.
        MachineFault: not enough memory.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
        for name, value in tensors.items():
            if not (value.is_floating_point() or (value.dim() < 2 and value.numel() == 1)) or not bool(
                value.isfinite().all()
            ):
                raise InputFault(f"{path}: {name} contains other than finite floats. Copy the file again.")
    except (MemoryError, RuntimeError, OSError, SafetensorError) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise MachineFault(
                f"{path}: not enough memory for its {size(path.stat().st_size)}. End other programs."
            ) from None
        if isinstance(error, RuntimeError):
            raise
        raise InputFault(
            f"{path}: cannot be read as safetensors: {str(error).rstrip('.')}. Restore the file."
        ) from None
    return tensors
