"""The lock of downloaded weights, and checks of files against it. Nothing here uses the network.

data/models.yaml                   the lock: the source, commit and files' sha256 of each model
data/models/sdxl-base-1.0/unet/..  the files of a downloaded model
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError, field_validator
from ruamel.yaml import YAML
from safetensors import SafetensorError, safe_open

from stages.files.artifact import digest, sha256
from stages.files.untrusted import is_pickle
from stages.files.writing import new_file
from stages.files.yaml import JUDGES, read_yaml
from stages.runtime import formatting
from stages.runtime.faults import ConfigFault, InputFault, nearest
from stages.runtime.strict import Strict, explain

LOCK, FOLDER = Path("data/models.yaml"), Path("data/models")
EMBEDDED = Path("data/world")  # the weights that ship with this project, under its licence:
OWN_LICENCE = "Apache-2.0"
SUFFIXES = (".safetensors", ".onnx", ".json", ".txt")  # formats that cannot contain code


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class File(Strict):
    """The pinned size and sha256 of a file, if known."""

    size: int | None = Field(None, ge=1)  # bytes
    sha256: Sha256 | None = None


class Pickle(Strict):
    """Weights published only as a pickle: downloaded, compared, converted without running its code, and deleted.

    Its sha256 must be known in advance.
    """

    file: str
    size: int | None = Field(None, ge=1)  # bytes
    sha256: Sha256
    converter: Annotated[str, StringConstraints(pattern=r"^[a-z_]+$")]  # of stages/metrics/weights/convert


class Model(Strict):
    """One entry of the lock."""

    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None = None  # a commit of the repo
    licence: str
    pickle: Pickle | None = None  # its only file is converted from this
    files: dict[str, File] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _harmless(cls, files: dict[str, File]) -> dict[str, File]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or path.suffix not in SUFFIXES:
                raise ValueError(f"{name} must be a {', '.join(SUFFIXES)} file inside the model's folder")
        return files


def content_digest(files: dict[str, File]) -> str | None:
    """Returns the sha256 over all files, as base.options.revision pins it; None while a file's sha256 is unknown."""
    hashes = {name: file.sha256 for name, file in files.items()}
    return None if None in hashes.values() else digest(hashes)


def read_lock() -> dict[str, Model]:
    """Reads the lock: model name -> entry.

    Raises:
        ConfigFault: it is missing, not YAML, or breaks a rule.
    """
    document = read_yaml(LOCK)
    models = {}
    for name, entry in document.tree.items():
        try:
            models[name] = Model.model_validate_json(json.dumps(entry))
        except ValidationError as error:
            raise ConfigFault(f"{document.where((name,))}: {explain(error, Model)}") from None
    return models


def project_lock() -> dict[str, Model]:
    """Reads this project's lock; without one, returns no models.

    Raises:
        ConfigFault: as `read_lock`.
    """
    return read_lock() if LOCK.is_file() else {}


def find(lock: dict[str, Model], name: str) -> Model:
    """Returns a model of the lock.

    Raises:
        ConfigFault: the lock has no such model.
    """
    if name not in lock:
        raise ConfigFault(f"{LOCK}: has no model '{name}'. {nearest(name, lock)}")
    return lock[name]


def models_used(params: Any, lock: dict[str, Model]) -> list[str]:
    """Lists the models of the lock whose folders a study's parameters name; `params` is the plain YAML tree."""
    judges = params["score"]["judges"]
    paths = [str(value) for value in params["base"]["options"].values()]
    metrics = params["score"]["metrics"].values()
    paths += [f"{judges}/{options[key]}" for options in metrics for key in JUDGES.intersection(options)]
    folders = [PurePosixPath(path) for path in paths]
    return [name for name in lock if any(folder.is_relative_to(PurePosixPath(FOLDER, name)) for folder in folders)]


def model_at(path: str, lock: dict[str, Model]) -> Model | None:
    """Returns the model of the lock whose folder contains a path; None if there is none."""
    place = PurePosixPath(path)
    return next((model for name, model in lock.items() if place.is_relative_to(PurePosixPath(FOLDER, name))), None)


def origin_and_licence(path: str, lock: dict[str, Model]) -> tuple[str, str] | None:
    """Returns the origin and the licence of the weights at a path; None if unknown."""
    if PurePosixPath(path).is_relative_to(PurePosixPath(EMBEDDED)):
        return f"made by {EMBEDDED}", OWN_LICENCE
    if model := model_at(path, lock):
        return model.repo + (f" at {model.revision[:12]}" if model.revision else ""), model.licence
    return None


def missing_files(name: str, model: Model) -> list[str]:
    """Lists the files of a model that are not in its folder, or have the wrong size."""
    folder = FOLDER / name
    return [file for file, pin in model.files.items() if not _has_size(folder / file, pin)]


def _has_size(path: Path, pin: File) -> bool:
    return path.is_file() and pin.size in (None, path.stat().st_size)


def describe(name: str, model: Model) -> str:
    """Returns one line for a list: name, download size or "here", source and licence."""
    sizes = [file.size for file in model.files.values()] + ([model.pickle.size] if model.pickle else [])
    total = sum(size or 0 for size in sizes)
    status = "here" if not missing_files(name, model) else formatting.size(total) if total else "?"
    return f"{name:22} {status:8} {model.repo} ({model.licence})"


def inspect(path: Path, name: str, pin: File) -> File:
    """Checks a file that was just downloaded, and returns its size and sha256.

    Args:
        path: of the file.
        name: what messages call it.
        pin: what the lock pins.

    Raises:
        InputFault: it could run code, is truncated, or is not the pinned file.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if is_pickle(head, path.suffix == ".safetensors"):
        raise InputFault(f"{name}: is a pickle, which could run code, whatever its name says. It was deleted.")
    actual = compare(path, name, pin)
    try:
        _parse(path)
    except (SafetensorError, ValueError) as error:
        raise InputFault(f"{name}: cannot be read ({error}): truncated or damaged. Fetch it again.") from None
    return actual


def compare(path: Path, name: str, pin: File | Pickle) -> File:
    """Returns size and sha256 of a file, after comparing them with those that are pinned.

    Raises:
        InputFault: they differ.
    """
    actual = File(size=path.stat().st_size, sha256=sha256(path))
    if pin.size not in (None, actual.size):
        raise InputFault(
            f"{name}: has {actual.size} bytes, {LOCK} pins {pin.size}: truncated, or another file. Fetch it again."
        )
    if pin.sha256 not in (None, actual.sha256):
        raise InputFault(
            f"{name}: its sha256 is {actual.sha256}, {LOCK} pins {pin.sha256}: damaged or another file. Fetch it again."
        )
    return actual


def _parse(path: Path) -> None:
    """Raises SafetensorError or ValueError for a file that is truncated; ONNX has no reader here, only its pin."""
    if path.suffix == ".safetensors":
        with safe_open(path, "np"):  # checks the header against the file's length
            pass
    elif path.suffix == ".json":
        json.loads(path.read_text("utf-8"))
    elif path.suffix == ".txt":
        path.read_text("utf-8")


def pin(name: str, revision: str | None, files: dict[str, File]) -> None:
    """Writes a model's revision, and the size and sha256 of its files, into the lock."""
    yaml = YAML(typ="rt")
    yaml.width = 200
    tree = yaml.load(LOCK.read_text("utf-8"))
    tree[name]["revision"] = revision
    for file, actual in files.items():
        entry = tree[name]["files"].setdefault(file, {})
        entry["size"], entry["sha256"] = actual.size, actual.sha256
    with new_file(LOCK) as draft, draft.open("w", encoding="utf-8") as out:
        yaml.dump(tree, out)
