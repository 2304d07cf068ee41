"""What every stage command does with an input that is damaged."""

import argparse
from pathlib import Path

import pytest

from stages.core import command
from stages.files import artifact
from stages.files.artifact import Damaged
from stages.runtime.faults import InputFault


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.core.params.load", lambda: argparse.Namespace(tasks=()))
    for place in ("runs/small/objects/0/data/01", "adapters/mine"):
        with artifact.publish(Path(place), "data", {}) as draft:
            (draft / "picture.png").write_bytes(b"pixels" * 100)
    return Path


def begin(folder: Path) -> None:
    command._begin(lambda *_: artifact.read(folder, "data"), None, argparse.Namespace())


@pytest.mark.parametrize("name", ["picture.png", "manifest.json"])
def test_a_damaged_folder_of_the_study_is_moved_away_so_that_running_again_rebuilds_it(published, name):
    folder = published("runs/small/objects/0/data/01")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputFault, match=rf"^{folder / name}: .*\. It was moved to \.cache/damaged/01-\S+\. Run palim"):
        begin(folder)
    assert not folder.exists()
    assert len(list(published(".cache/damaged").glob("01-*/picture.png"))) == 1
    with pytest.raises(InputFault, match=r"has no manifest\.json\. Run palimpsest run"):
        begin(folder)


def test_what_belongs_to_the_user_is_not_moved(published):
    folder = published("adapters/mine")
    (folder / "picture.png").write_bytes(b"other")
    with pytest.raises(Damaged, match="its sha256 is not the manifest's"):
        begin(folder)
    assert folder.exists()
