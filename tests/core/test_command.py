"""What every stage command does with its arguments, and with an input that is damaged."""

import argparse
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.core import command
from stages.files import artifact
from stages.files.artifact import Damaged
from stages.runtime.faults import InputFault
from tests.support.workspace import change, environment, small

STAGES = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.core.params.load", lambda: argparse.Namespace(positions=()))
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


@given(
    st.tuples(WORDS, st.from_regex(r"[0-9a-z_]{1,3}", fullmatch=True)),
    WORDS,
    st.integers(-9, 10**6),
    st.integers(0, 98),
)
def test_a_stage_s_name_stands_for_the_same_arguments_as_in_a_terminal(sequence, strategy, seed, task):
    key, names = "/".join(sequence), "-".join(sequence)
    run, at = f"{key}/{strategy}/{seed}", f"{task + 1:02d}"
    assert command.expanded([f"train@{names}-{strategy}-{seed}-task{task}"]) == [run, "--task", at]
    assert command.expanded([f"start@{names}-{strategy}-{seed}", "--debug"]) == [run, "--debug"]
    assert command.expanded([f"prepare@{names}-task{task}"]) == [key, "--task", at]
    assert command.expanded([f"sample_base@{names}"]) == [key, "--base"]
    assert command.expanded([run, "--task", at]) == [run, "--task", at]


@pytest.mark.parametrize("stage", STAGES)
def test_no_parameter_is_part_of_a_command_that_a_shell_reads(stage):
    assert "${" not in STAGES[stage]["cmd"]
    assert shlex.split(STAGES[stage]["cmd"])[3:] == (["$DVC_STAGE"] if "matrix" in STAGES[stage] else [])


@pytest.mark.slow
def test_dvc_executes_nothing_that_parameters_contain(tmp_path):
    """`dvc repro` builds commands from params.yaml before any code of ours can check it."""
    folder = small(tmp_path / "work")
    seeds = ["0; touch executed-1", "0' ; touch executed-2 '", "$(touch executed-3)\ntouch executed-4"]
    change(folder, seeds=seeds, domains=["objects; touch executed-5"], orders=["`touch executed-6`"])
    done = subprocess.run(
        ["dvc", "repro", "-k", "start"], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.stderr.count("failed to run: ") == len(seeds), done.stderr
    assert "should match pattern" in done.stderr
    assert not [path.name for path in folder.iterdir() if path.name.startswith("executed")]
