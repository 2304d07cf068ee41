"""Photos are checked where the user has them, all at once, before anything is copied or run."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from flows import cli
from flows.commands import concepts, new_project
from stages.core.params import load
from stages.runtime.exits import attempt
from stages.tools import edit_params
from tests.support.workspace import hashes, with_dvc, workspace


@pytest.fixture
def palimpsest(monkeypatch, capfd, tmp_path):
    """A function that runs `palimpsest` in this process and returns exit code, stdout and stderr."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palimpsest", *map(str, words)])
        try:
            code = attempt(cli._work)
        except SystemExit as end:
            code = end.code or 0
        return code, *capfd.readouterr()

    return run


def photos(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        Image.effect_noise((48, 40), 30 + number).convert("RGB").save(folder / name / "1.jpg")
    return folder


def test_init_reports_all_bad_photos_at_their_own_paths_and_creates_nothing(palimpsest, tmp_path):
    things = photos(tmp_path / "things", "mug", "toy", "cap", "My Cup", "tin_")
    code, _, err = palimpsest("init", "mine", "--photos", things)
    wrong = [things / "My Cup", things / "tin_"]
    assert (code, err) == (2, f"error: {wrong[0]}, {wrong[1]}: rename them. Use {edit_params.NAMES}.\n")
    for folder in wrong:
        shutil.rmtree(folder)
    (things / "mug/2.jpg").write_bytes(b"no photo")
    (things / "toy/2.png").write_bytes((things / "toy/1.jpg").read_bytes()[:300])
    code, _, err = palimpsest("init", "mine", "--photos", things)
    assert code == 3
    assert [line.removeprefix("error: ").split(": ")[0] for line in err.splitlines()] == [
        str(things / "mug/2.jpg"), str(things / "toy/2.png"),
    ]  # fmt: skip
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("profile", ["own", "sdxl-quick", "sdxl-styles", "quick", "sdxl-objects"])
def test_a_project_of_own_photos_learns_them_whatever_the_profile(tmp_path, profile):
    (tmp_path / "params.yaml").write_text(new_project._params(profile, ["mug", "toy"]))
    tree = edit_params.tree(tmp_path / "params.yaml")
    assert (tree["dataset"]["name"], tree["source"], tree["orders"]) == ("folder", "data/photos", ["0"])
    assert tree["sequences"] == {"objects": {"0": {"t01": "mug", "t02": "toy"}}}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A project of two concepts, in which nothing has run."""
    folder = workspace(tmp_path / "mine")
    photos(folder / "data/photos", "mug", "toy")
    (folder / "params.yaml").write_text(new_project._params("own", ["mug", "toy"]))
    monkeypatch.chdir(with_dvc(folder))
    return folder


def test_a_concept_is_refused_at_the_paths_that_the_user_gave(palimpsest, mine, tmp_path):
    new = photos(tmp_path / "later", "cup") / "cup"
    (new / "2.jpg").write_bytes(b"no photo")
    before = hashes(mine, "data/photos") | {"params": Path("params.yaml").read_text("utf-8")}
    code, _, err = palimpsest("concept", "add", "cup", "--photos", new, "--yes")
    assert (code, err.startswith(f"error: {new / '2.jpg'}: not a JPEG")) == (3, True), err
    code, _, err = palimpsest("concept", "redo", "mug", "--photos", new, "--yes")
    assert (code, str(new / "2.jpg") in err) == (3, True), err
    (new / "2.jpg").unlink()
    (new / "concept.yaml").write_text(f"token: {load().data.load('objects', 'mug').token}\n")
    code, _, err = palimpsest("concept", "add", "cup", "--photos", new, "--yes")
    assert (code, "share the token" in err, "params.yaml:" in err) == (2, True, False), err
    code, _, err = palimpsest("concept", "add", "cap", "--yes")
    assert code == 2
    assert err.startswith("error: cap: the dataset has no concept 'cap'. ")
    code, _, err = palimpsest("concept", "add", "mug", "--yes")
    assert "palimpsest concept redo mug" in err
    assert before == hashes(mine, "data/photos") | {"params": Path("params.yaml").read_text("utf-8")}


def test_a_new_concept_is_called_by_its_name_not_by_its_folder(palimpsest, mine, tmp_path):
    photos(tmp_path / "later", "kitchen")
    code, out, err = palimpsest("concept", "add", "cup", "--photos", tmp_path / "later/kitchen", "--yes", "--no-run")
    assert code == 0, err
    cup = load().data.load("objects", "cup")
    assert cup.noun == "cup"
    assert f"cup: 1 photo; in prompts: {cup.token} cup." in out


def test_the_same_command_goes_on_with_a_concept_that_was_added(palimpsest, mine, tmp_path, monkeypatch):
    """What a stopped `concept add` has said, with the same photos; with others it is refused."""
    monkeypatch.setattr(concepts, "_run", lambda _: 75)
    words = "concept", "add", "cup", "--photos", photos(tmp_path / "later", "cup") / "cup", "--yes"
    code, out, err = palimpsest(*words)
    assert (code, out.splitlines()[-1]) == (75, "Added cup; to go on with the run: palimpsest run"), err
    text = Path("params.yaml").read_text("utf-8")
    monkeypatch.setattr(concepts, "_run", lambda _: 0)
    code, out, err = palimpsest(*words)
    assert (code, "cup was added before." in out, "now and before" in out) == (0, True, True), err
    assert Path("params.yaml").read_text("utf-8") == text
    twice(tmp_path / "later/cup")
    code, _, err = palimpsest(*words)
    assert (code, "palimpsest concept redo cup" in err) == (2, True)


@pytest.mark.parametrize("name", ["my mug", "Mug", "", "\U0001f600", "mug_", "a__b", "m" * 41])
def test_a_name_that_no_concept_can_have_is_refused_as_it_was_given(palimpsest, mine, tmp_path, name):
    photos(tmp_path / "later", "cup")
    code, _, err = palimpsest("concept", "add", name, "--photos", tmp_path / "later/cup", "--yes")
    assert (code, err) == (2, f"error: name {name!a}: use {edit_params.NAMES}.\n")
    assert sorted(path.name for path in Path("data/photos").iterdir()) == ["mug", "toy"]


def test_what_was_wrong_before_a_change_is_reported_at_its_own_line(palimpsest, mine):
    text = Path("params.yaml").read_text("utf-8")
    Path("params.yaml").write_text(text.replace("strategies: [", "strategies: [nothing, "))
    line = next(i for i, row in enumerate(text.splitlines(), 1) if row.startswith("strategies:"))
    for words in (["remove", "mug"], ["add", "cup"], ["list"]):
        code, _, err = palimpsest("concept", *words, *(["--yes"] if words != ["list"] else []))
        if words != ["list"]:  # which reads no strategy
            assert (code, err.startswith(f"error: params.yaml:{line}: strategies.0: ")) == (2, True), err


def test_a_run_checks_all_photos_before_the_first_stage(palimpsest, mine):
    for name in ("mug", "toy"):
        (mine / "data/photos" / name / "2.jpg").write_bytes(b"no photo")
    code, out, err = palimpsest("run", "--no-view")
    assert (code, out) == (3, "")
    assert [line.removeprefix("error: ").split(":")[0] for line in err.splitlines()] == [
        "data/photos/mug/2.jpg", "data/photos/toy/2.jpg",
    ]  # fmt: skip
    assert not (mine / "runs").exists()


def twice(folder: Path) -> str:
    """Adds a copy of a concept's photo; returns the note on it."""
    (folder / "2.jpg").write_bytes((folder / "1.jpg").read_bytes())
    return f"{folder.name}: 2.jpg: the same file as 1.jpg"


@pytest.mark.slow
def test_a_change_and_its_run_print_each_note_once_and_the_same_estimate(palimpsest, mine, tmp_path, monkeypatch):
    """On photos of the concept that changes, on those of another that has not run, and on a text that is too long."""
    new = photos(tmp_path / "later", "cup") / "cup"
    notes = [twice(new), twice(mine / "data/photos/toy")]
    (new / "1.txt").write_text("a {} " + "very " * 40 + "old")
    run = concepts._run
    monkeypatch.setattr(concepts, "_run", lambda options: run([*options, "--plan"]))
    for words in (["add", "cup", "--plan"], ["add", "cup", "--yes"], ["redo", "cup", "--yes", "--no-run"]):
        code, out, err = palimpsest("concept", *words, "--photos", new, "--no-view", "--jobs", 3)
        lines = out.splitlines()
        (estimate,) = {line for line in lines if "stages to update (" in line}  # the run's is the same
        assert ", 3 at a time" in estimate
        assert (code, "longer" in err) == (0, False), err
        assert out.count("stages to update (") == (2 if words[-1] == "--yes" else 1)  # before and in the run
        assert [lines.count(note) for note in notes] == [1, 1], out
        assert len([line for line in lines if "is longer than the text encoder reads" in line]) == 1, out
        monkeypatch.setenv("PALIMPSEST_JOBS", "3")
        planned = palimpsest("plan")[1].splitlines()
        monkeypatch.delenv("PALIMPSEST_JOBS")
        assert (estimate in planned) == (words[-1] != "--plan"), "what was only shown is not planned"
    code, out, err = palimpsest("concept", "remove", "cup", "--yes", "--no-run")
    assert (code, [out.splitlines().count(note) for note in notes]) == (0, [0, 1]), err
