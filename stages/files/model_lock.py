"""Weights from outside: what the lock pins, and whether a file is what it pins. Nothing here touches a network.

data/models.yaml                   the lock: where each model comes from, at which commit, and the sha256 of its files
data/models/sdxl-base-1.0/unet/..  where the files of a model lie once they have been fetched
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError, field_validator
from ruamel.yaml import YAML
from safetensors import SafetensorError, safe_open

from stages.files.artifact import digest, sha256
from stages.files.writing import new_file
from stages.files.yaml import read_yaml
from stages.runtime.faults import ConfigFault, InputFault, nearest
from stages.runtime.strict import Strict, explain

LOCK, FOLDER = Path("data/models.yaml"), Path("data/models")
EMBEDDED, OWN_LICENCE = (
    Path("data/world"),
    "Apache-2.0",
)  # the weights that ship with this project come under its licence
SUFFIXES = (".safetensors", ".json", ".txt")  # none of them can hold code
PICKLES = (b"\x80", b"PK\x03\x04")  # how a pickle begins, and the zip file that torch.save makes of one


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class File(Strict):
    """What is known of a file before it has been fetched."""

    size: int | None = Field(None, ge=1)  # bytes
    sha256: Sha256 | None = None


class Pickle(Strict):
    """Weights that are published as a pickle only: fetched, compared, converted without running code that is in it, and
    thrown away; so its sha256 has to be known before."""

    file: str
    size: int | None = Field(None, ge=1)  # bytes
    sha256: Sha256
    converter: Annotated[str, StringConstraints(pattern=r"^[a-z_]+$")]  # of stages/metrics/weights/convert


class Model(Strict):
    """One entry of the lock."""

    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None = None  # a commit of it
    licence: str
    pickle: Pickle | None = None  # what its only file is made from
    files: dict[str, File] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _harmless(cls, files: dict[str, File]) -> dict[str, File]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or path.suffix not in SUFFIXES:
                raise ValueError(f"{name} is not one of {', '.join(SUFFIXES)} inside the model's folder")
        return files


def content(files: dict[str, File]) -> str | None:
    """The sha256 over all files, as base.options.revision pins it; None as long as one of them is not known."""
    known = {name: file.sha256 for name, file in files.items()}
    return None if None in known.values() else digest(known)


def read_lock(path: Path = LOCK) -> dict[str, Model]:
    """
    Raises:
        ConfigFault: it is missing, not YAML, or breaks a rule.
    """
    document = read_yaml(path)
    models = {}
    for name, entry in document.tree.items():
        try:
            models[name] = Model.model_validate_json(json.dumps(entry))
        except ValidationError as error:
            raise ConfigFault(f"{document.where((name,))}: {explain(error, Model)}") from None
    return models


def here() -> dict[str, Model]:
    """The lock of this project, of nothing where there is none.

    Raises:
        ConfigFault: as `read_lock`.
    """
    return read_lock() if LOCK.is_file() else {}


def find(lock: dict[str, Model], name: str) -> Model:
    """
    Raises:
        ConfigFault: the lock has no such model.
    """
    if name not in lock:
        raise ConfigFault(f"{LOCK}: has no model '{name}'. {nearest(name, lock)}")
    return lock[name]


def wanted(params: Any, lock: dict[str, Model]) -> list[str]:
    """The models of the lock that a study's parameters, as they stand in YAML, name by their folder."""
    judges = params["score"]["judges"]
    paths = [str(value) for value in params["base"]["options"].values()]
    paths += [f"{judges}/{options['path']}" for options in params["score"]["metrics"].values() if "path" in options]
    folders = [PurePosixPath(path) for path in paths]
    return [name for name in lock if any(folder.is_relative_to(PurePosixPath(FOLDER, name)) for folder in folders)]


def known(path: str, lock: dict[str, Model]) -> Model | None:
    """The model of the lock whose folder a path is in."""
    at = PurePosixPath(path)
    return next((model for name, model in lock.items() if at.is_relative_to(PurePosixPath(FOLDER, name))), None)


def terms(path: str, lock: dict[str, Model]) -> tuple[str, str] | None:
    """Where the weights at a path come from, and under which licence; None if nothing here tells."""
    if PurePosixPath(path).is_relative_to(PurePosixPath(EMBEDDED)):
        return f"made by {EMBEDDED}", OWN_LICENCE
    if model := known(path, lock):
        return model.repo + (f" at {model.revision[:12]}" if model.revision else ""), model.licence
    return None


def lacking(name: str, model: Model) -> list[str]:
    """The files of a model that are not in its folder, or not of the right size."""
    here = FOLDER / name
    return [file for file, pin in model.files.items() if not _looks_right(here / file, pin)]


def _looks_right(path: Path, pin: File) -> bool:
    return path.is_file() and pin.size in (None, path.stat().st_size)


def describe(name: str, model: Model) -> str:
    """One line for a list."""
    sizes = [file.size for file in model.files.values()] + ([model.pickle.size] if model.pickle else [])
    size = sum(size or 0 for size in sizes) / 1e9
    here = "here" if not lacking(name, model) else f"{size:.1f} GB" if size else "?"
    return f"{name:22} {here:8} {model.repo} ({model.licence})"


def inspect(path: Path, name: str, pin: File) -> File:
    """Size and sha256 of a file that has just come in.

    Raises:
        InputFault: it could run code, is cut short, or is not the file that is pinned.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICKLES):
        raise InputFault(f"{name}: is a pickle, which could run code, whatever its name says. It was thrown away.")
    found = compare(path, name, pin)
    try:
        _parse(path)
    except (SafetensorError, ValueError) as error:
        raise InputFault(f"{name}: cannot be read ({error}): cut short or damaged.") from None
    return found


def compare(path: Path, name: str, pin: File | Pickle) -> File:
    """Size and sha256 of a file, which are those that are pinned where they are.

    Raises:
        InputFault: they are not.
    """
    found = File(size=path.stat().st_size, sha256=sha256(path))
    if pin.size not in (None, found.size):
        raise InputFault(f"{name}: has {found.size} bytes, {LOCK} pins {pin.size}: cut short, or another file.")
    if pin.sha256 not in (None, found.sha256):
        raise InputFault(f"{name}: its sha256 is {found.sha256}, {LOCK} pins {pin.sha256}: damaged, or another file.")
    return found


def _parse(path: Path) -> None:
    if path.suffix == ".safetensors":
        with safe_open(path, "np"):  # compares the header with the file's length
            pass
    elif path.suffix == ".json":
        json.loads(path.read_text("utf-8"))
    else:
        path.read_text("utf-8")


def pin(name: str, revision: str | None, files: dict[str, File], path: Path = LOCK) -> None:
    """Writes into the lock what is known of a model now."""
    yaml = YAML(typ="rt")
    yaml.width = 200
    tree = yaml.load(path.read_text("utf-8"))
    tree[name]["revision"] = revision
    for file, found in files.items():
        entry = tree[name]["files"].setdefault(file, {})
        entry["size"], entry["sha256"] = found.size, found.sha256
    with new_file(path) as draft, draft.open("w", encoding="utf-8") as out:
        yaml.dump(tree, out)
