"""Downloads the files that the lock pins from a hub, or copies them from a folder; existing files are only checked."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.files import model_lock
from stages.files.model_lock import File, Model
from stages.files.writing import put_in_place
from stages.runtime.faults import ConfigFault, InputFault, MachineFault, first_line
from stages.runtime.formatting import size

log = logging.getLogger("palimpsest")
Get = Callable[[str, Path], Path]  # fetches a file of the model into a folder and returns its path
Convert = Callable[[str, Path, Path], None]  # (converter, pickle, target): converts a pickle to safetensors


def check_before_download(name: str, model: Model, trust: bool) -> None:
    """Checks the lock and the free disk space.

    Args:
        name: the model's key in the lock.
        model: its entry.
        trust: accept files without a sha256 in the lock.

    Raises:
        ConfigFault: a file has no sha256 in the lock, and `trust` is false.
        MachineFault: there is not enough disk space.
    """
    unknown = [file for file, pin in model.files.items() if pin.sha256 is None]
    if unknown and not trust and not model.pickle:
        raise ConfigFault(
            f"{model_lock.LOCK}: {name} has no sha256 for {unknown[0]}. Give --pin (make weights PIN=1) to "
            "record that of the first download; later ones are checked against it."
        )
    missing = model_lock.missing_files(name, model)
    needed = sum(model.files[file].size or 0 for file in missing)
    if model.pickle and missing:
        needed += model.pickle.size or 0
    model_lock.FOLDER.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(model_lock.FOLDER).free
    if needed > free:
        raise MachineFault(f"{name}: needs {size(needed)}, {size(free)} are free in {model_lock.FOLDER}.")


def fetch_files(name: str, model: Model, get: Get) -> dict[str, File]:
    """Fetches the missing files of a model and checks each one before it is moved into the model's folder.

    Returns:
        Size and sha256 of every file.

    Raises:
        InputFault: a file does not match its pin, or could run code.
        MachineFault: the hub cannot be reached, or the disk is full.
    """
    here, partial = model_lock.FOLDER / name, model_lock.FOLDER / f".{name.replace('/', '-')}.partial"
    files = {}
    for file, pin in model.files.items():
        target = here / file
        if target.is_file():
            try:
                files[file] = model_lock.inspect(target, str(target), pin)
                continue
            except InputFault as fault:
                log.warning("%s Downloading it again.", fault)
                target.unlink()
        files[file] = _fetch_file(file, get, partial, target, pin)
        message = "%s/%s: %s, sha256 matches" if pin.sha256 else "%s/%s: %s"
        log.info(message, name, file, size(target.stat().st_size))
    shutil.rmtree(partial, ignore_errors=True)
    return files


def _fetch_file(file: str, get: Get, partial: Path, target: Path, pin: File) -> File:
    partial.mkdir(parents=True, exist_ok=True)
    try:
        try:
            fetched = get(file, partial)
            checked = model_lock.inspect(fetched, file, pin)
        except InputFault:
            shutil.rmtree(partial)  # including the hub client's cache, which would return the bad file again
            raise
        target.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(fetched, target)  # `partial` survives a kill, so that the download can be resumed
    except OSError as error:
        raise MachineFault(f"{target}: cannot be written: {error.strerror or error}.") from None
    return checked


def from_folder(folder: Path) -> Get:
    """Copies files from a folder instead of a hub.

    Raises:
        InputFault: the folder lacks a file (when the result is called).
    """

    def get(file: str, into: Path) -> Path:
        source = folder / file
        if not source.is_file():
            raise InputFault(f"{source}: no such file. Give --from the folder that holds the model's files.")
        copy = into / Path(file).name
        shutil.copyfile(source, copy)
        return copy

    return get


def from_hub(model: Model, endpoint: str | None) -> Get:
    """Downloads files from a hub; interrupted downloads are resumed."""

    def get(file: str, into: Path) -> Path:
        from huggingface_hub import hf_hub_download

        source = f"{model.repo}/{file}"
        return Path(
            _ask(source, hf_hub_download, model.repo, file, revision=model.revision, local_dir=into, endpoint=endpoint)
        )

    return get


def from_pickle(model: Model, get: Get, convert: Convert) -> Get:
    """Downloads the published pickle and converts it to the model's safetensors file.

    Raises:
        InputFault: the pickle does not match its sha256, needs to run code, or holds another model (when the result is
            called).
    """
    source = model.pickle
    assert source is not None

    def get_converted(file: str, into: Path) -> Path:
        pickle = get(source.file, into)
        model_lock.compare(pickle, source.file, source)
        target = into / Path(file).name
        convert(source.converter, pickle, target)
        pickle.unlink()
        return target

    return get_converted


def fetch_model(
    name: str, model: Model, folder: Path | None, endpoint: str | None, pin: bool, convert: Convert
) -> dict[str, File]:
    """Fetches a model and, if asked, pins in the lock what was not pinned yet.

    Files converted from a pinned pickle are always pinned.

    Args:
        name: the model's key in the lock.
        model: its entry.
        folder: copy from here instead of downloading.
        endpoint: URL of another hub; None for the default.
        pin: record commit, sizes and hashes in the lock.
        convert: converts a published pickle.

    Returns:
        Size and sha256 of every file.

    Raises:
        InputFault: as `fetch_files`, or the hub does not have the model or asks for a login.
        MachineFault: as `fetch_files`.
    """
    revision = model.revision
    if folder:
        get = from_folder(folder)
    else:
        if pin and revision is None:
            revision = newest_commit(model, endpoint)
        get = from_hub(model.model_copy(update={"revision": revision}), endpoint)
    files = fetch_files(name, model, from_pickle(model, get, convert) if model.pickle else get)
    if (pin or model.pickle) and (revision, files) != (model.revision, model.files):
        model_lock.pin(name, revision, files)
    return files


def newest_commit(model: Model, endpoint: str | None) -> str:
    """The newest commit of the model's main branch on the hub."""
    from huggingface_hub import HfApi

    return str(_ask(model.repo, HfApi(endpoint=endpoint).model_info, model.repo).sha)


def _ask(source: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls the hub's client and turns its errors into faults of one line.

    Raises:
        InputFault: the hub does not have it, or asks for a login.
        MachineFault: the hub cannot be reached, or the connection breaks.
    """
    from httpx2 import HTTPError
    from huggingface_hub import logging as hub_logging
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call] # errors are reported below, once
    otherwise = "or copy the files here by other means and give --from FOLDER"
    try:
        return call(*args, **options)
    except OfflineModeIsEnabled:
        raise MachineFault(f"{source}: HF_HUB_OFFLINE is set. Unset it, {otherwise}.") from None
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "unknown")
        if code in (401, 403):
            raise InputFault(f"{source}: the hub asks for a login. Accept the licence, log in, {otherwise}.") from None
        if code == 404:
            raise InputFault(f"{source}: the hub has no such file at that revision. Fix {model_lock.LOCK}.") from None
        raise MachineFault(f"{source}: the hub answered with status {code}. Try again later, {otherwise}.") from None
    except (HTTPError, OSError) as error:
        reason = first_line(error.__cause__ or error)
        raise MachineFault(f"{source}: download failed: {reason}. Try again, {otherwise}.") from None
