"""The inbox without Prefect: which folders are imported, which stay, and kills between any two steps."""

import errno
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.engine.photo_check import check_photos
from flows.platform.inbox import INBOX, NOTE, import_folders
from stages.core.params import load
from stages.datasets.shared.names import identify
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
    """A workspace with a study of photos and one concept."""
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
    """The unchanged workspace with an empty inbox."""
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


def test_valid_folders_become_tasks_in_the_order_of_their_names_and_a_second_call_does_nothing(here):
    photos(INBOX / "Tea Pot", 1)
    photos(INBOX / "cup", 2)
    added, skipped = import_folders(0)
    assert names() == ["mug", *added]
    assert [name.split("_")[0] for name in added] == ["tea", "cup"]
    assert not skipped
    assert not list(INBOX.iterdir())
    assert {path.name for path in Path("data/photos").iterdir()} == {"mug", "Tea Pot", "cup"}
    text = Path("params.yaml").read_bytes()
    assert import_folders(0) == ([], [])
    assert Path("params.yaml").read_bytes() == text


def test_a_note_is_not_written_through_a_link_or_into_a_pipe(here, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    (INBOX / "empty").mkdir()
    (INBOX / f"empty{NOTE}").symlink_to(precious)
    (INBOX / "none").mkdir()
    os.mkfifo(INBOX / f"none{NOTE}")
    assert import_folders(0) == ([], ["empty", "none"])
    assert precious.read_text() == "as it was"
    assert all("has no pictures" in (INBOX / f"{name}{NOTE}").read_text() for name in ("empty", "none"))


def test_folders_with_errors_stay_with_a_note_until_they_are_fixed(here):
    truncated = photos(INBOX / "cup", 1) / "0.png"
    whole = truncated.read_bytes()
    truncated.write_bytes(whole[:-40])
    (INBOX / "empty").mkdir()
    photos(INBOX / "mug", 3)
    (INBOX / "stray.png").write_bytes(whole)
    (INBOX / f"gone{NOTE}").write_text("about a deleted folder")
    assert import_folders(0) == ([], ["cup", "empty", "mug", "stray.png"])
    notes = {path.name.removesuffix(NOTE): path.read_text("utf-8") for path in INBOX.glob(f"*{NOTE}")}
    assert notes.keys() == {"cup", "empty", "mug", "stray.png"}
    assert "cup/0.png" in notes["cup"]
    assert "has no pictures" in notes["empty"]
    assert "the study has a concept mug already" in notes["mug"]
    assert "is not a folder" in notes["stray.png"]
    assert names() == ["mug"]
    truncated.write_bytes(whole)
    assert import_folders(0) == (["cup"], ["empty", "mug", "stray.png"])
    assert not (INBOX / f"cup{NOTE}").exists()


def test_a_folder_that_is_being_filled_is_skipped_and_a_dry_run_changes_nothing(here):
    photos(INBOX / "cup", 1)
    assert import_folders(3600) == ([], ["cup"])
    assert import_folders(0, dry_run=True) == (["cup"], [])
    assert names() == ["mug"]
    assert (INBOX / "cup").is_dir()


@pytest.mark.parametrize("quiet", [float("nan"), float("inf"), -3.0])
def test_what_is_no_number_of_seconds_is_refused(here, quiet):
    with pytest.raises(ConfigFault, match=r"^quiet: .* is not a number of seconds"):
        import_folders(quiet)


def test_notes_on_photos_are_printed_by_a_dry_run_or_else_by_the_run(here, capsys):
    shutil.copy(photos(INBOX / "cup", 1) / "0.png", INBOX / "cup/2.png")
    note = ": 2.png: the same file as 0.png"
    import_folders(0, dry_run=True)
    assert capsys.readouterr().out.count(note) == 1
    (name,), _ = import_folders(0)
    assert note not in capsys.readouterr().out
    assert check_photos(load(), ["prepare@objects-0-task1"]) == [name + note]


def test_a_study_with_another_dataset_takes_no_photos(here):
    assert import_folders(0) == ([], [])
    shutil.copy("data/profiles/toy-objects.yaml", "params.yaml")
    assert import_folders(0) == ([], [])
    photos(INBOX / "cup", 1)
    with pytest.raises(ConfigFault, match="palimpsest profile use own"):
        import_folders(0)
    assert (INBOX / "cup").is_dir()


def killed(step: int) -> bool:
    """Imports in a child process that is killed before step number `step`; False if it had fewer steps."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    remaining = step

    def count(event: str, args: tuple) -> None:
        nonlocal remaining
        writing = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (event in STEPS or writing) and not os.path.isabs(args[0]):  # ignores the scratch folder
            if not remaining:
                os.kill(os.getpid(), signal.SIGKILL)
            remaining -= 1

    sys.addaudithook(count)
    try:
        import_folders(0)
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
    load()  # imports here, so that no child has to
    while True:
        photos(INBOX / "cup", 1)
        contents = {path.name: path.read_bytes() for path in (INBOX / "cup").iterdir()}
        was_killed = killed(step)
        import_folders(0)
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


def test_names_that_only_a_disk_allows_never_stop_the_others(here, monkeypatch, capsys):
    odd = [INBOX / os.fsdecode(b"bad\xff"), INBOX / "two\nlines", INBOX / ("long" * 62), INBOX / "readonly"]
    for number, folder in enumerate(odd):
        photos(folder, 10 + number)
    photos(INBOX / "zebra", 20)
    rename = Path.rename

    def refuse(self, target):
        if self.name == "readonly":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    added, skipped = import_folders(0)
    assert {"zebra", identify(odd[2].name)} <= {*added}
    assert {odd[0].name, odd[1].name, "readonly"} <= {*skipped}
    assert names()[-1] == "zebra"
    assert all(folder.exists() for folder in odd if folder.name in skipped)
