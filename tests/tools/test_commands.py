"""Export, import and painting as commands: what a person at the terminal is told, and what is refused."""

import importlib
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from flows import cli
from stages.adapters.state import State
from stages.core.command import main
from stages.core.runs import runs
from stages.core.strategy import strategies
from stages.runtime.exits import attempt
from stages.runtime.faults import ConfigFault
from stages.sampling.sampler import sample
from stages.tools import export as command
from stages.tools.exchange.source import find
from stages.tools.paint import paint
from tests.support.drawn_study import DENSE, SUM, drawn

pytestmark = pytest.mark.filterwarnings("ignore:'stages:RuntimeWarning")  # commands are run in this process


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    yield from drawn(tmp_path_factory.mktemp("commands"))


def test_a_command_answers_in_one_line(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export", SUM, "--task", "02", "--to", str(tmp_path / "x"), "--rank", "0"])
    monkeypatch.setattr("stages.core.command.guard", lambda: None)
    with pytest.raises(SystemExit) as caught:
        main(command.__doc__, command.export, None, more=command.arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --rank 0: at least 1")


@pytest.fixture
def said(monkeypatch, capsys):
    """Runs `palimpsest` in this process; gives its exit code and the last line that it said."""
    monkeypatch.setattr("stages.core.command.guard", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["palimpsest", *map(str, words)])
        try:
            code = attempt(cli._work)
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, (err if code else out).splitlines()[-1]

    return run


def test_a_place_that_is_taken_is_a_wrong_argument(study, tmp_path, said):
    lora, empty, file = tmp_path / "lora.safetensors", tmp_path / "empty", tmp_path / "file"
    assert said("export", SUM, "--task", "02", "--to", lora)[0] == 0
    empty.mkdir()
    file.write_text("mine")
    for place in (empty, Path("runs"), Path("runs/small")):
        code, line = said("import", lora, "--to", place)
        assert (code, line.startswith(f"error: {place}: is in the way")) == (2, True)
    commands = (
        ["import", lora],
        ["export", SUM, "--task", "02"],
        ["paint", SUM, "--task", "02", "--prompt", "a star"],
    )
    for words in commands:
        for place in (file, file / "inside"):
            code, line = said(*words, "--to", place)
            assert (code, line.startswith(f"error: {file}: is a file")) == (2, True)
    assert file.read_text() == "mine"
    assert not list(empty.iterdir())
    for _ in range(2):
        assert said("import", lora, "--to", tmp_path / "new")[0] == 0


@pytest.mark.parametrize("rank", [None, "1", "9999"])
def test_the_error_of_every_layer_is_said_where_a_rank_cuts(study, tmp_path, caplog, said, rank):
    words = ["export", DENSE, "--task", "02", "--to", tmp_path / "here", "--accept-error"]
    with caplog.at_level("INFO", "palimpsest"):
        code, line = said(*words, *(["--rank", rank] if rank else []))
    told = [r.getMessage().split() for r in caplog.records if r.getMessage().split()[0] in study.family.shapes()]
    assert code == 0
    if rank != "1":
        assert not told
        return
    assert sorted(name for name, _ in told) == sorted(study.family.shapes())
    errors = [float(error) for _, error in told]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert f"({told[0][0]})" in line
    caplog.clear()
    with caplog.at_level("INFO", "palimpsest"):
        assert said(*words[:-1], "--rank", rank)[0] == 3
    assert len(caplog.records) >= len(told)  # also where it is refused


@pytest.fixture
def without_states(study):
    """What a finished study comes down to that has kept its adapters only."""
    states = sorted(Path("runs").rglob("state"))
    assert len(states) == len(runs(study)) * 3
    for path in states:
        path.rename(path.with_name("away"))
    yield
    for path in states:
        path.with_name("away").rename(path)


@pytest.mark.parametrize("strategy", sorted(strategies.classes))
def test_states_that_are_gone_are_handed_on_all_the_same(study, tmp_path, said, request, strategy):
    run, folders = f"objects/0/{strategy}/0", {name: tmp_path / name for name in ("before", "after")}
    for name, folder in folders.items():
        if name == "after":
            request.getfixturevalue("without_states")
        assert said("export", run, "--task", "02", "--to", folder)[0] == 0
        assert said("paint", run, "--task", "02", "--prompt", "a sks star", "--to", folder)[0] == 0
    kept = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders.values()]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3
    adapter = Path("runs/small", run, "01/adapter/manifest.json")
    adapter.rename(adapter.with_suffix(".away"))
    code, line = said("export", run, "--task", "02", "--to", tmp_path / "third")
    adapter.with_suffix(".away").rename(adapter)
    assert (code, "01/adapter: there is no manifest.json" in line) == (3, True)


def test_pictures_are_those_that_the_study_would_sample(study, tmp_path):
    words = ["a photo of a sks star", "a heart"]
    args = Namespace(key=SUM, task="02", what="state", prompt=words, to=tmp_path / "painted")
    paint(study, None, args)
    painted = sorted(args.to.iterdir())
    assert [path.name for path in painted] == ["00-00.png", "01-00.png"]
    (files,) = sample(study, State(find(study, SUM, "02", "state").delta), [words[:1]])
    assert files[0].read_bytes() == painted[0].read_bytes() != painted[1].read_bytes()
    with pytest.raises(ConfigFault, match=r"00-00\.png: is there already"):
        paint(study, None, args)


@pytest.mark.parametrize("name", ["export", "import_lora", "paint", "forecast"])
def test_every_command_explains_itself(name, monkeypatch, capsys):
    module = importlib.import_module(f"stages.tools.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as caught:
        main(module.__doc__, lambda *_: None, None, more=module.arguments)
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "exit codes: 0 done" in said
    assert f"python -m stages.tools.{name} " in said
