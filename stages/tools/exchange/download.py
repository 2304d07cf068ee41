"""Fetches the files that the lock pins, from a hub or a folder; what is there already is checked, not fetched again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.files import model_lock
from stages.files.model_lock import File, Model
from stages.files.writing import put_in_place
from stages.runtime.faults import ConfigFault, InputFault, MachineFault

log = logging.getLogger("palimpsest")
Get = Callable[[str, Path], Path]  # fetches a file of the model into a folder, and says where it is
Convert = Callable[[str, Path, Path], None]  # with the converter of that name makes a safetensors file of a pickle


def consider(name: str, model: Model, trust: bool) -> None:
    """What can be said before anything is fetched.

    Raises:
        ConfigFault: the lock has no sha256 of a file, and what comes is not to be taken on trust.
        MachineFault: the disk is too full.
    """
    unknown = [file for file, pin in model.files.items() if pin.sha256 is None]
    if unknown and not trust and not model.pickle:
        raise ConfigFault(
            f"{model_lock.LOCK}: {name} has no sha256 for {unknown[0]} yet. Give --pin (make weights PIN=1) to "
            "record what comes this time; from then on it is compared."
        )
    lacking = model_lock.lacking(name, model)
    needed = sum(model.files[file].size or 0 for file in lacking)
    if model.pickle and lacking:
        needed += model.pickle.size or 0
    model_lock.FOLDER.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(model_lock.FOLDER).free
    if needed > free:
        raise MachineFault(f"{name}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {model_lock.FOLDER}.")


def fetch(name: str, model: Model, get: Get) -> dict[str, File]:
    """Brings the files of a model into its folder, each of them once it has been checked.

    Raises:
        InputFault: a file is not what is pinned, or could run code.
        MachineFault: the hub cannot be reached, or the disk is full.
    """
    here, partial, found = model_lock.FOLDER / name, model_lock.FOLDER / f".{name.replace('/', '-')}.partial", {}
    for file, pin in model.files.items():
        target = here / file
        if target.is_file():
            try:
                found[file] = model_lock.inspect(target, str(target), pin)
                continue
            except InputFault as fault:
                log.warning("%s Fetching it again.", fault)
                target.unlink()
        found[file] = _bring(file, get, partial, target, pin)
        log.info(
            "%s/%s: %.1f MB, as pinned" if pin.sha256 else "%s/%s: %.1f MB", name, file, target.stat().st_size / 1e6
        )
    shutil.rmtree(partial, ignore_errors=True)
    return found


def _bring(file: str, get: Get, partial: Path, target: Path, pin: File) -> File:
    partial.mkdir(parents=True, exist_ok=True)
    try:
        try:
            came = get(file, partial)
            checked = model_lock.inspect(came, file, pin)
        except InputFault:
            shutil.rmtree(partial)  # with what the hub's client remembers of it, which would give it out again
            raise
        target.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(came, target)  # from a folder that stays after a kill, so that the download is resumed there
    except OSError as error:
        raise MachineFault(f"{target}: cannot be written: {error.strerror or error}.") from None
    return checked


def from_folder(folder: Path) -> Get:
    """Copies of files that somebody has brought here."""

    def get(file: str, into: Path) -> Path:
        source = folder / file
        if not source.is_file():
            raise InputFault(f"{source}: there is no such file. --from names the folder that holds the model's files.")
        copy = into / Path(file).name
        shutil.copyfile(source, copy)
        return copy

    return get


def from_hub(model: Model, endpoint: str | None) -> Get:
    """Downloads, which go on where they were cut off."""

    def get(file: str, into: Path) -> Path:
        from huggingface_hub import hf_hub_download

        place = f"{model.repo}/{file}"
        return Path(
            _ask(place, hf_hub_download, model.repo, file, revision=model.revision, local_dir=into, endpoint=endpoint)
        )

    return get


def converted(model: Model, get: Get, convert: Convert) -> Get:
    """The model's file, made from the pickle that its publisher offers.

    Raises:
        InputFault: the pickle is not what is pinned, cannot be read without running code, or is no such model.
    """
    source = model.pickle
    assert source is not None

    def make(file: str, into: Path) -> Path:
        came = get(source.file, into)
        model_lock.compare(came, source.file, source)
        made = into / Path(file).name
        convert(source.converter, came, made)
        came.unlink()
        return made

    return make


def bring(
    name: str, model: Model, folder: Path | None, endpoint: str | None, pin: bool, convert: Convert
) -> dict[str, File]:
    """Fetches a model from a folder, or else from a hub; pins what was not known of it, where that is asked for or
    follows from what was."""
    revision = model.revision
    if folder:
        get = from_folder(folder)
    else:
        if pin and revision is None:
            revision = newest(model, endpoint)
        get = from_hub(model.model_copy(update={"revision": revision}), endpoint)
    found = fetch(name, model, converted(model, get, convert) if model.pickle else get)
    if (pin or model.pickle) and (revision, found) != (model.revision, model.files):
        model_lock.pin(name, revision, found)
    return found


def newest(model: Model, endpoint: str | None) -> str:
    """The commit that the hub's main branch is at."""
    from huggingface_hub import HfApi

    return str(_ask(model.repo, HfApi(endpoint=endpoint).model_info, model.repo).sha)


def _ask(place: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """
    Raises:
        InputFault: the hub has no such thing, or does not give it to everyone.
        MachineFault: the hub cannot be reached, or breaks off.
    """
    from httpx2 import HTTPError
    from huggingface_hub import logging as hub_logging
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call] # what goes wrong is said below, once
    elsewhere = "or bring the files here by other means and give --from FOLDER"
    try:
        return call(*args, **options)
    except OfflineModeIsEnabled:
        raise MachineFault(f"{place}: HF_HUB_OFFLINE is set. Unset it, {elsewhere}.") from None
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "no status")
        if code in (401, 403):
            raise InputFault(f"{place}: the hub asks for a login. Accept its licence, log in, {elsewhere}.") from None
        if code == 404:
            raise InputFault(f"{place}: the hub has no such file at that revision. Mend {model_lock.LOCK}.") from None
        raise MachineFault(f"{place}: the hub answers {code}. Try again later, {elsewhere}.") from None
    except (HTTPError, OSError) as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise MachineFault(f"{place}: cannot be fetched: {reason.rstrip('.')}. Try again, {elsewhere}.") from None
