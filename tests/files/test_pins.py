"""Weights that are not the pinned ones are refused before they score anything."""

import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from stages.files import pins
from stages.files.model_lock import File, Model
from stages.files.pins import SUMS, check_weights, write_sums
from stages.metrics.weights import loading
from stages.runtime.faults import InputFault

JUDGES = sorted(path for path in Path("data/world/judges").iterdir() if path.is_dir())


@pytest.fixture
def folder(tmp_path):
    for name in ("a.json", "weights.safetensors"):
        (tmp_path / "judge" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "judge" / name).write_bytes(name.encode() * 1000)
    return tmp_path / "judge"


@pytest.mark.parametrize("judge", JUDGES, ids=lambda path: path.name)
def test_the_embedded_judges_are_pinned_down_to_the_last_file(judge, caplog):
    check_weights(judge)
    assert not caplog.records
    assert {*pins.pinned_hashes(judge)[0], SUMS} == {path.name for path in judge.iterdir()}


def test_sha256sum_reads_ours_and_we_read_its(folder):
    write_sums(folder)
    ours = (folder / SUMS).read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", SUMS], cwd=folder, check=True)
    theirs = subprocess.run(
        ["sha256sum", "a.json", "weights.safetensors"], cwd=folder, check=True, capture_output=True, text=True
    )
    assert theirs.stdout == ours
    check_weights(folder)


@pytest.mark.parametrize("judge", JUDGES, ids=lambda path: path.name)
def test_four_kilobytes_of_zeros_in_a_judge_are_noticed(judge, tmp_path):
    copy = shutil.copytree(judge, tmp_path / "judge")
    (weights,) = copy.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-8192:-4096] = bytes(4096)
    weights.write_bytes(content)
    with pytest.raises(InputFault, match=f"{weights.name}: damaged or another file"):
        loading.weights_file(str(copy), weights.name)


@pytest.mark.parametrize("change", ["missing", "format"])
def test_other_faults_name_their_file(folder, change):
    write_sums(folder)
    if change == "missing":
        (folder / "a.json").unlink()
        expected = r"a\.json: missing, but .*SHA256SUMS pins it"
    else:
        (folder / SUMS).write_text("not a sum\n")
        expected = r"SHA256SUMS: cannot read the line 'not a sum'"
    with pytest.raises(InputFault, match=expected):
        check_weights(folder)


def test_unpinned_weights_are_named_with_the_command_that_pins_them(folder, caplog):
    with caplog.at_level(logging.WARNING):
        check_weights(folder)
    assert "sha256sum * > SHA256SUMS" in caplog.text


def test_downloaded_judges_are_pinned_by_the_lock(tmp_path, monkeypatch):
    folder = tmp_path / "judges" / "one"
    folder.mkdir(parents=True)
    (folder / "w.safetensors").write_bytes(b"other")
    lock = {"judges/one": Model(repo="a/b", licence="MIT", files={"w.safetensors": File(sha256="0" * 64)})}
    monkeypatch.setattr(pins, "FOLDER", tmp_path)
    monkeypatch.setattr(pins, "project_lock", lambda: lock)
    with pytest.raises(InputFault, match=r"w\.safetensors: damaged or another file.*data/models\.yaml pins 0000"):
        check_weights(folder)
