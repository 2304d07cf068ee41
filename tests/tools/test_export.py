"""Export and adoption, on a run of the embedded base; diffusers itself is one of the readers."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from ruamel.yaml import YAML

from stages.adapters.algebra import Delta
from stages.adapters.storage import load_adapter
from stages.files import artifact, writing
from stages.runtime.faults import ConfigFault, InputFault, MachineFault
from stages.tools.exchange.model_card import card, metadata
from stages.tools.exchange.source import find
from stages.tools.export import export
from stages.tools.import_lora import adopt
from tests.support.drawn_study import DENSE, SUM, drawn
from tests.support.lora_readers import comfyui, ldm_names, opened

CREDIT = "Ann | <b>Bee</b>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    yield from drawn(tmp_path_factory.mktemp("export"))


def exported(study, run, to, **options):
    usual = {"task": "02", "what": "state", "format": "kohya", "dtype": "fp16", "rank": None}
    args = Namespace(**usual | {"accept_error": False, "verbose": False, "key": run, "to": Path(to)} | options)
    export(study, None, args)
    return next(Path(to).glob("*.safetensors")) if Path(to).is_dir() else Path(to)


def apart(found, delta):
    assert sorted(found) == delta.modules
    return max(float((found[n].detach().float() - shift).norm() / shift.norm()) for n, shift in delta.matrices())


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 1e-3), ("fp32", 1e-6)])
def test_comfyui_gets_the_state(study, tmp_path, dtype, tolerance):
    for run in (SUM, DENSE):
        file, notes = opened(exported(study, run, tmp_path / run, dtype=dtype))
        delta = find(study, run, "02", "state").delta
        assert apart(comfyui(file, ldm_names(2, 1, delta.modules)), delta) <= tolerance
        assert notes.get("ss_network_dim") == ("8" if run == SUM else None)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize(("run", "rank"), [(SUM, None), (DENSE, 9999)], ids=["one rank", "as many ranks as sizes"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 1e-3), ("fp32", 1e-6)])
def test_diffusers_gets_the_state_and_paints_the_same(study, tmp_path, form, run, rank, dtype, tolerance):
    path = exported(study, run, tmp_path / "here", format=form, dtype=dtype, rank=rank)
    family, delta = study.family, find(study, run, "02", "state").delta
    prompts, noise = family.encode_prompts(["a photo of a zwz heart"]), torch.ones(1, *family.noise_shape())
    family.shift(delta)
    wanted = _predicted(family, prompts, noise)
    family.shift(Delta())
    plain = _predicted(family, prompts, noise)
    family.pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    try:
        layers = {n: family.pipeline.unet.get_submodule(n) for n in delta.modules}
        name = next(iter(family.pipeline.unet.peft_config))
        assert {layer.scaling[name] for layer in layers.values()} == {1.0}
        assert apart({n: layer.get_delta_weight(name) for n, layer in layers.items()}, delta) <= tolerance
        found = _predicted(family, prompts, noise)
    finally:
        family.pipeline.unload_lora_weights()
    moved = float((wanted - plain).norm())
    assert moved > 0
    assert float((found - wanted).norm()) <= 10 * tolerance * moved


@torch.no_grad()
def _predicted(family, prompts, noise):
    extra = {"text_embeds": prompts["pooled"], "time_ids": family.time_ids(1)}
    return family.pipeline.unet(noise, torch.tensor([500]), prompts["text"], added_cond_kwargs=extra).sample.float()


def test_it_tells_what_it_is(study, tmp_path):
    path = exported(study, SUM, tmp_path / "here")
    file, notes = opened(path)
    assert all(isinstance(value, str) for value in notes.values())
    assert notes["modelspec.architecture"] == "palimpsest-toy/lora"
    assert notes["modelspec.trigger_phrase"] == "zwz heart, sks star"
    assert notes["ss_base_model_version"] == "palimpsest_toy"
    assert notes["ss_network_dim"] == notes["ss_network_alpha"] == "8"
    assert {float(value) for name, value in file.items() if name.endswith(".alpha")} == {8.0}
    assert json.loads(notes["ss_tag_frequency"])["zwz_heart"] == {"a photo of a zwz heart": 6}
    assert "base model: Apache-2.0; pictures: " in notes["modelspec.license"]
    assert notes["ss_network_args"] == "{}"
    assert not re.search(r"20\d\d-\d\d", json.dumps(notes))
    card = path.with_name("README.md").read_text()
    for said in (
        "zwz heart",
        "a photo of a sks star",
        study.base.options["revision"],
        r"merge\_init",
        "content sha256",
    ):
        assert said in card


def based(study, name, **options):
    """The study as if its base were another."""
    base = study.base.model_copy(update={"name": name, "options": study.base.options | options})
    return study.model_copy(update={"base": base})


@pytest.mark.parametrize(
    ("name", "path", "licence", "repo"),
    [
        ("toy", "data/world/base", "Apache-2.0", "base"),
        ("sdxl", "data/models/sdxl-base-1.0", "CreativeML Open RAIL++-M", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("sdxl", "/tmp/standin", "unknown", "standin"),
        ("sdxl", "data/models/my-fine-tune", "unknown", "my-fine-tune"),
        ("sd15", "data/models/sd-1.5", "CreativeML Open RAIL-M", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("sd15", "data/models/sd-1.5-mine", "unknown", "sd-1.5-mine"),
    ],
)
def test_terms_are_those_of_the_weights_and_names_those_of_the_kind(study, name, path, licence, repo):
    origin, other = find(study, SUM, "02", "state"), based(study, name, path=path)
    for form in ("kohya", "diffusers"):
        notes = metadata(other, origin, form, "4", "0")
        assert notes["modelspec.license"].startswith(f"base model: {licence}; pictures: ")
        ldm = form == "kohya" and name != "sd15"
        assert notes["modelspec.implementation"] == (
            "https://github.com/Stability-AI/generative-models" if ldm else "diffusers"
        )
        front = YAML(typ="safe").load(card(other, origin, "a.safetensors", form, "it", None).split("---")[1])
        assert front["base_model"] == repo
        assert front["license_name"] == notes["modelspec.license"]
        assert set(front) == {"tags", "license", "license_name", "base_model", "instance_prompt"}


def test_text_from_photos_cannot_become_markup(study, tmp_path):
    with patch("stages.tools.exchange.source.artifact.read", side_effect=_credited):
        origin = find(study, SUM, "01", "state")
    text = card(study, origin, "a`b.safetensors", "diffusers", "it", None)
    assert r"Ann \| &lt;b\>Bee&lt;/b\>" in text
    assert "<b>" not in text.split("```")[0] + text.split("```")[2]
    assert text.count("```") == 2


def _credited(folder, kind, original=artifact.read):
    facts = original(folder, kind)
    if kind == "data":
        for entry in facts["pictures"]["training"]:
            entry["source"] = CREDIT
    return facts


def test_the_same_command_gives_the_same_bytes(study, tmp_path):
    first = exported(study, DENSE, tmp_path / "a", rank=8, accept_error=True)
    before = {p.name: p.read_bytes() for p in first.parent.iterdir()}
    exported(study, DENSE, tmp_path / "a", rank=8, accept_error=True)
    assert {p.name: p.read_bytes() for p in first.parent.iterdir()} == before
    assert set(before) == {first.name, "README.md"}


def test_a_report_gives_its_sheet(study, tmp_path, monkeypatch):
    with artifact.publish(Path("report/small"), "report", {}) as draft:
        (draft / "grids").mkdir()
        (draft / "grids/objects-0-merge_init-0.png").write_bytes(b"a sheet")
    try:
        path = exported(study, SUM, tmp_path / "mine.safetensors")
    finally:
        shutil.rmtree("report/small")
    assert path.with_suffix(".png").read_bytes() == b"a sheet"
    assert "](<mine.png>)" in path.with_suffix(".md").read_text()


def test_a_single_task_says_that_it_is_not_the_whole(study, tmp_path):
    path = exported(study, SUM, tmp_path / "here", what="adapter")
    assert opened(path)[1]["modelspec.trigger_phrase"] == "sks star"
    assert "alone is not the model after its task" in path.with_name("README.md").read_text()
    path = exported(study, SUM, tmp_path / "first", what="adapter", task="01")
    assert "One adapter, trained on the base model." in path.with_name("README.md").read_text()


def test_what_others_put_there_stays(study, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigFault, match=r"README\.md: is there already and was not exported"):
        exported(study, SUM, tmp_path)
    (tmp_path / "base.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigFault, match=r"base\.safetensors: is there already"):
        exported(study, SUM, tmp_path / "base.safetensors")
    assert (tmp_path / "base.safetensors").read_bytes() == b"precious"


def test_a_full_disk_is_said_before_anything_is_written(study, tmp_path, monkeypatch):
    full = Namespace(total=10, used=10, free=0)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: full)
    with pytest.raises(MachineFault, match="0 MB are free"):
        exported(study, SUM, tmp_path / "here")
    assert not list(tmp_path.rglob("*.safetensors*"))


@pytest.mark.parametrize(
    ("options", "fault", "said"),
    [
        ({"task": None}, ConfigFault, "after which task"),
        ({"run": "objects/0/naiv/0"}, ConfigFault, "Did you mean|There is"),
        ({"run": DENSE, "format": "diffusers"}, ConfigFault, "--rank N"),
        ({"run": DENSE, "rank": 1}, InputFault, "too much is lost"),
    ],
)
def test_what_cannot_be_is_refused(study, tmp_path, options, fault, said):
    with pytest.raises(fault, match=said):
        exported(study, **{"run": SUM, "to": tmp_path / "here"} | options)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_what_was_exported_can_be_adopted_and_exported_again(study, tmp_path, form):
    path = exported(study, SUM, tmp_path / "out", format=form, dtype="fp32")
    there = tmp_path / "adapters/mine"
    adopt(study, None, Namespace(file=path, to=there, alpha=None))
    manifest = artifact.read(there, "adapter")
    assert manifest["adopted"]["format"] == form
    back = load_adapter(there / "adapter.safetensors", manifest["scale"], study.family.shapes())
    delta = find(study, SUM, "02", "state").delta
    assert apart(dict(back.delta.matrices()), delta) < 1e-6
    again = exported(study, str(there), tmp_path / "again", task=None, what="adapter")
    assert apart(comfyui(opened(again)[0], ldm_names(2, 1, delta.modules)), delta) < 1e-3
    assert "trained elsewhere" in again.with_name("README.md").read_text()
    assert "; adapter: base model: Apache-2.0; pictures: " in opened(again)[1]["modelspec.license"]
    with pytest.raises(ConfigFault, match="02/state: is in the way"):
        adopt(study, None, Namespace(file=path, to=Path("runs/small/objects/0/merge_init/0/02/state"), alpha=None))
