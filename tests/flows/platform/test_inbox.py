"""The inbox, without Prefect: what is taken in, what is left, and what a kill between any two steps leaves behind."""

import errno
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.platform.inbox import INBOX, NOTE, take_in
from stages.core.params import load
from stages.runtime.faults import ConfigFault
from tests.support.workspace import ONE_METRIC, workspace

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}


def photos(folder: Path, seed: int = 0, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng([seed, number]).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def own(folder: Path) -> Path:
    """A workspace whose study is one of photos, with one concept."""
    one = {
        "tasks": [{"index": "01", "previous": "00", "sees": "data/01"}],
        "sequences": {"objects": {"0": {"t01": "mug"}}},
    }
    workspace(folder, study="own", source="data/photos", dataset={"name": "folder"}, score=ONE_METRIC, **one)
    photos(folder / "data/photos/mug")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return own(tmp_path_factory.mktemp("inbox") / "work")


@pytest.fixture
def here(made, monkeypatch):
    """The workspace as it was made, and an empty inbox."""
    monkeypatch.chdir(made)
    before = Path("params.yaml").read_bytes()
    INBOX.mkdir(exist_ok=True)
    yield made
    Path("params.yaml").write_bytes(before)
    shutil.rmtree(INBOX)
    for folder in Path("data/photos").iterdir():
        if folder.name != "mug":
            shutil.rmtree(folder)


def names() -> list[str]:
    return list(load().sequence("objects", "0").values())


def test_good_folders_become_tasks_in_the_order_of_their_names_and_a_second_call_does_nothing(here):
    photos(INBOX / "Tea Pot", 1)
    photos(INBOX / "cup", 2)
    added, left = take_in(0)
    assert names() == ["mug", *added]
    assert [name.split("_")[0] for name in added] == ["tea", "cup"]
    assert not left
    assert not list(INBOX.iterdir())
    assert {path.name for path in Path("data/photos").iterdir()} == {"mug", "Tea Pot", "cup"}
    text = Path("params.yaml").read_bytes()
    assert take_in(0) == ([], [])
    assert Path("params.yaml").read_bytes() == text


def test_bad_folders_stay_with_a_note_until_they_are_mended(here):
    torn = photos(INBOX / "cup", 1) / "0.png"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-40])
    (INBOX / "empty").mkdir()
    photos(INBOX / "mug", 3)
    (INBOX / "stray.png").write_bytes(whole)
    (INBOX / f"gone{NOTE}").write_text("of a folder that is no more")
    assert take_in(0) == ([], ["cup", "empty", "mug", "stray.png"])
    notes = {path.name.removesuffix(NOTE): path.read_text("utf-8") for path in INBOX.glob(f"*{NOTE}")}
    assert notes.keys() == {"cup", "empty", "mug", "stray.png"}
    assert "cup/0.png" in notes["cup"]
    assert "has no pictures" in notes["empty"]
    assert "there is a concept called mug already" in notes["mug"]
    assert "is not a folder" in notes["stray.png"]
    assert names() == ["mug"]
    torn.write_bytes(whole)
    assert take_in(0) == (["cup"], ["empty", "mug", "stray.png"])
    assert not (INBOX / f"cup{NOTE}").exists()


def test_a_folder_that_is_being_filled_is_left_and_looking_changes_nothing(here):
    photos(INBOX / "cup", 1)
    assert take_in(3600) == ([], ["cup"])
    assert take_in(0, only_look=True) == (["cup"], [])
    assert names() == ["mug"]
    assert (INBOX / "cup").is_dir()


def test_a_study_of_something_else_takes_no_photos(here):
    assert take_in(0) == ([], [])
    shutil.copy("data/profiles/toy-objects.yaml", "params.yaml")
    assert take_in(0) == ([], [])
    photos(INBOX / "cup", 1)
    with pytest.raises(ConfigFault, match="palimpsest profile use own"):
        take_in(0)
    assert (INBOX / "cup").is_dir()


def killed(step: int) -> bool:
    """Takes in, in a process that is killed before its step of this number; False if it had fewer."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = step

    def count(event: str, given: tuple) -> None:
        nonlocal left
        writing = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (event in STEPS or writing) and not os.path.isabs(given[0]):  # the scratch folder's do not matter
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(count)
    try:
        take_in(0)
    finally:
        os._exit(0)


def other_disk(path: Path, target: Path) -> None:
    if path.parent == INBOX:
        raise OSError(errno.EXDEV, "Invalid cross-device link")
    os.rename(path, target)


@pytest.mark.parametrize("disks", ["one disk", "two disks"])
def test_killed_between_any_two_steps_a_concept_is_added_once(here, monkeypatch, disks):
    if disks == "two disks":
        monkeypatch.setattr(Path, "rename", other_disk)
    before, step = Path("params.yaml").read_bytes(), 0
    load()  # what is imported now is not imported in each child
    while True:
        photos(INBOX / "cup", 1)
        contents = {path.name: path.read_bytes() for path in (INBOX / "cup").iterdir()}
        was_killed = killed(step)
        take_in(0)
        assert names() == ["mug", "cup"]
        assert not list(INBOX.iterdir())
        assert {path.name for path in Path("data/photos").iterdir()} == {"mug", "cup"}
        assert {path.name: path.read_bytes() for path in Path("data/photos/cup").iterdir()} == contents
        if not was_killed:
            break
        shutil.rmtree("data/photos/cup")
        Path("params.yaml").write_bytes(before)
        step += 1
    assert step >= (3 if disks == "one disk" else 8)
