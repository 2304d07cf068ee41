"""An export replaces the files of an earlier export and no others."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stages.core.params import load
from stages.files import tensors, writing
from stages.files.yaml import PARAMS
from stages.runtime.faults import ConfigFault
from stages.tools.exchange.exporting import check_target, pack, write
from stages.tools.exchange.source import Origin
from tests.support.workspace import PROJECT
from tests.tools.test_exporting import LDM, adapter

DELTA = adapter(0, 2).delta


@pytest.fixture(scope="module")
def params():
    return load(PROJECT / PARAMS)


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """One run's state, with a contact sheet in its report."""
    monkeypatch.setattr(writing, "sync", lambda path: None)
    sheet = tmp_path / "report/sheet.png"
    sheet.parent.mkdir()
    Image.radial_gradient("L").convert("RGB").save(sheet)
    facts = {"base": "a base", "seed": 0}
    return Origin("study-merge-02", "study: merge after task 02", "state", DELTA, facts, {}, (), picture=sheet)


def export(params, origin, target, form="kohya"):
    """As the command does."""
    check_target(target, origin, form)
    return write(params, origin, pack(origin.delta, form, torch.float16, None, LDM), form, "fp16", target)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edited(path: Path) -> None:
    """A user's own words in the card, a dot in the picture, other metadata in the weights; the rest as it was."""
    if path.suffix == ".md":
        path.write_text(path.read_text().replace("# study", "# My study", 1))
    elif path.suffix == ".png":
        notes = PngInfo()
        with Image.open(path) as image:
            for key, value in image.info.items():
                notes.add_text(key, value)
            image.putpixel((3, 3), (255, 0, 0))
            image.save(path, pnginfo=notes)
    else:
        tensors.write(path, tensors.read(path)[0], {"ss_output_name": "mine"})


def another(path: Path) -> None:
    """A file of the same kind that no export wrote."""
    path.unlink()
    if path.suffix == ".png":
        Image.new("RGB", (30, 20), "red").save(path)
    else:
        path.write_text("---\ntags:\n- palimpsest\n---\n")


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(("form", "name"), [("kohya", "here"), ("diffusers", "here"), ("kohya", "mine.safetensors")])
def test_what_an_export_wrote_is_replaced_and_nothing_else(params, origin, tmp_path, form, name):
    """Twice into one place, with a foreign file between, which is named and stays; then with that file moved away."""
    target = tmp_path / "out" / name
    folder = export(params, origin, target, form).parent
    before = contents(folder)
    assert len(before) == 3
    export(params, origin, target, form)
    assert contents(folder) == before
    for spoil, file in product((edited, another, damaged, a_link, a_folder), sorted(before)):
        spoil(path := folder / file)
        foreign = path.is_file() and path.read_bytes()
        assert foreign != before[file]
        with pytest.raises(ConfigFault, match=f"^{re.escape(str(path))}: already exists and is not an export"):
            export(params, origin, target, form)
        assert (path.is_file() and path.read_bytes()) == foreign
        path.rename(tmp_path / f"{spoil.__name__}-{file}")
        assert contents(folder) == {other: text for other, text in before.items() if other != file}
        path.write_bytes(before[file])
    (folder / file).unlink()
    export(params, origin, target, form)
    assert contents(folder) == before


def test_exports_of_several_runs_share_a_folder(params, origin, tmp_path):
    """Each has its own model card and picture, which the next one does not touch."""
    others = [replace(origin, name=f"study-merge-0{k}", title=f"after task 0{k}") for k in range(3)]
    for _ in range(2):
        for one in others:
            export(params, one, tmp_path / "exports")
    ends = (".md", ".png", ".safetensors")
    assert sorted(contents(tmp_path / "exports")) == [f"{one.name}{end}" for one in others for end in ends]
    for one in others:
        card = (tmp_path / "exports" / f"{one.name}.md").read_text()
        assert f"\n# {one.title}\n\n![Every concept after each task](<{one.name}.png>)\n" in card


@pytest.mark.parametrize(("form", "name"), [("diffusers", "here"), ("kohya", "mine.safetensors")])
def test_another_run_at_the_same_place_replaces_all_files_and_says_so(params, origin, tmp_path, caplog, form, name):
    weights = export(params, origin, tmp_path / name, form)
    picture = next(weights.parent.glob("*.png"))
    caplog.clear()
    with caplog.at_level("INFO", "palimpsest"):
        export(params, replace(origin, name="other"), tmp_path / name, form)
        assert caplog.messages == [f"{weights}: replaces the export of study-merge-02"]
        caplog.clear()
        export(params, replace(origin, name="other", picture=None), tmp_path / name, form)
        assert caplog.messages == [f"{picture}: is deleted, as it shows what the replaced weights drew"]
    assert not picture.exists()
    Image.new("RGB", (30, 20), "red").save(picture)
    mine = picture.read_bytes()
    export(params, replace(origin, name="other", picture=None), tmp_path / name, form)
    assert picture.read_bytes() == mine


def test_line_ends_that_git_has_changed_are_no_edit(params, origin, tmp_path):
    card = export(params, origin, tmp_path / "here").with_suffix(".md")
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n"))
    export(params, origin, tmp_path / "here")
    assert b"\r" not in card.read_bytes()
