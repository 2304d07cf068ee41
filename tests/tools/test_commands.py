"""Export, import and paint as commands: what they print, and what they refuse."""

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
from stages.runtime.exits import attempt
from stages.runtime.faults import ConfigFault
from stages.sampling.sampler import sample
from stages.tools import export as command
from stages.tools.exchange.source import find_origin
from stages.tools.paint import paint
from tests.support.drawn_study import DENSE, SUM, drawn_study

pytestmark = pytest.mark.filterwarnings("ignore:'stages:RuntimeWarning")  # commands run in this process


# One for each kind of state: a single adapter, a sum, added factors, a selection, a random one, one with a memory.
# That of every strategy is rebuilt in tests/core/test_states.py.
KINDS = ("naive", "merge_init", "ortho_init", "magmax", "dare", "soft_projection")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    yield from drawn_study(tmp_path_factory.mktemp("commands"), KINDS)


def test_an_error_is_one_line(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export", SUM, "--task", "02", "--to", str(tmp_path / "x"), "--rank", "0"])
    monkeypatch.setattr("stages.core.command.die_with_parent", lambda: None)
    with pytest.raises(SystemExit) as caught:
        main(command.__doc__, command.export, None, more=command.arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --rank 0: must be at least 1")


@pytest.fixture
def palimpsest(monkeypatch, capsys):
    """Runs `palimpsest` in this process; returns its exit code and its last line of output."""
    monkeypatch.setattr("stages.core.command.die_with_parent", lambda: None)
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


def test_an_occupied_target_is_refused(study, tmp_path, palimpsest):
    lora, empty, file = tmp_path / "lora.safetensors", tmp_path / "empty", tmp_path / "file"
    assert palimpsest("export", SUM, "--task", "02", "--to", lora)[0] == 0
    empty.mkdir()
    file.write_text("mine")
    for place in (empty, Path("runs"), Path("runs/small")):
        code, line = palimpsest("import", lora, "--to", place)
        assert (code, line.startswith(f"error: {place}: already exists and is not an import")) == (2, True)
    commands = (
        ["import", lora],
        ["export", SUM, "--task", "02"],
        ["paint", SUM, "--task", "02", "--prompt", "an owl"],
    )
    for words in commands:
        for place in (file, file / "inside"):
            code, line = palimpsest(*words, "--to", place)
            assert (code, line.startswith(f"error: {file}: is a file")) == (2, True)
    assert file.read_text() == "mine"
    assert not list(empty.iterdir())
    for _ in range(2):
        assert palimpsest("import", lora, "--to", tmp_path / "new")[0] == 0


@pytest.mark.parametrize("rank", [None, "1", "9999"])
def test_the_error_of_every_layer_is_logged_if_a_rank_truncates(study, tmp_path, caplog, palimpsest, rank):
    words = ["export", DENSE, "--task", "02", "--to", tmp_path / "here"]
    with caplog.at_level("INFO", "palimpsest"):
        code, line = palimpsest(*words, *(["--rank", rank, "--accept-error"] if rank else []))
    logged = [r.getMessage().split() for r in caplog.records if r.getMessage().split()[0] in study.family.shapes()]
    assert code == 0
    if rank != "1":
        assert not logged
        return
    assert sorted(name for name, _ in logged) == sorted(study.family.shapes())
    errors = [float(error) for _, error in logged]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert f"({logged[0][0]})" in line
    caplog.clear()
    with caplog.at_level("INFO", "palimpsest"):
        assert palimpsest(*words, "--rank", rank)[0] == 3
    assert len(caplog.records) >= len(logged)  # also where the export is refused


def test_what_would_be_ignored_is_refused(study, tmp_path, palimpsest):
    lora, folder = tmp_path / "lora.safetensors", tmp_path / "mine"
    run = ["export", SUM, "--task", "02", "--to", lora]
    assert palimpsest(*run, "--accept-error") == (
        2,
        "error: --accept-error: give --rank, too; without it nothing is truncated.",
    )
    assert palimpsest(*run)[0] == palimpsest("import", lora, "--to", folder)[0] == 0
    for words in (
        ["export", folder, "--to", tmp_path / "a"],
        ["paint", folder, "--to", tmp_path / "b", "--prompt", "x"],
    ):
        for given, reason in ((["--task", "01"], "no tasks"), (["--what", "state"], "no states")):
            name = " ".join(given)
            said = f"error: {name}: {folder} is an imported adapter, which has {reason}. Omit it."
            assert palimpsest(*words, *given) == (2, said)
        assert palimpsest(*words, "--what", "adapter")[0] == 0


@pytest.fixture
def without_states(study):
    """A finished study of which only the adapters are stored."""
    states = sorted(Path("runs").rglob("state"))
    assert len(states) == len(runs(study)) * 3
    for path in states:
        path.rename(path.with_name("away"))
    yield
    for path in states:
        path.with_name("away").rename(path)


@pytest.mark.parametrize("strategy", KINDS)
def test_deleted_states_are_exported_all_the_same(study, tmp_path, palimpsest, request, strategy):
    run, folders = f"objects/0/{strategy}/0", {name: tmp_path / name for name in ("before", "after")}
    for name, folder in folders.items():
        if name == "after":
            request.getfixturevalue("without_states")
        assert palimpsest("export", run, "--task", "02", "--to", folder)[0] == 0
        assert palimpsest("paint", run, "--task", "02", "--prompt", "a sks owl", "--to", folder)[0] == 0
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders.values()]
    assert files[0] == files[1]
    assert len(files[0]) == 3
    adapter = Path("runs/small", run, "01/adapter/manifest.json")
    adapter.rename(adapter.with_suffix(".away"))
    code, line = palimpsest("export", run, "--task", "02", "--to", tmp_path / "third")
    adapter.with_suffix(".away").rename(adapter)
    assert (code, "01/adapter: has no manifest.json" in line) == (3, True)


def test_painted_pictures_equal_those_of_the_study(study, tmp_path):
    words = ["a photo of a sks owl", "a robot"]
    args = Namespace(key=SUM, task="02", what="state", prompt=words, to=tmp_path / "painted")
    paint(study, None, args)
    painted = sorted(args.to.iterdir())
    assert [path.name for path in painted] == ["00-00.png", "01-00.png"]
    (files,) = sample(study, State(find_origin(study, SUM, "02", "state").delta), [words[:1]])
    assert files[0].read_bytes() == painted[0].read_bytes() != painted[1].read_bytes()
    with pytest.raises(ConfigFault, match=r"00-00\.png: already exists"):
        paint(study, None, args)


@pytest.mark.parametrize("prompt", ["a photo of a {} at night", "a [trigger]", "an\u202e owl", "x" * 10_001])
def test_a_template_or_an_illegible_text_is_not_painted(study, tmp_path, palimpsest, prompt):
    code, line = palimpsest("paint", SUM, "--task", "02", "--prompt", prompt, "--to", tmp_path / "painted")
    assert (code, line.startswith("error: --prompt: ")) == (2, True), line
    assert not (tmp_path / "painted").exists()
    place = next((place for place in ("{}", "[trigger]") if place in prompt), "")
    assert place in line
    assert not place or "palimpsest concept list" in line


@pytest.mark.parametrize("name", ["export", "import_lora", "paint", "forecast"])
def test_every_command_has_help(name, monkeypatch, capsys):
    module = importlib.import_module(f"stages.tools.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as caught:
        main(module.__doc__, lambda *_: None, None, more=module.arguments)
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert "exit codes: 0 done" in output
    assert f"python -m stages.tools.{name} " in output
