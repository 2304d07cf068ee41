"""Export and import on a run of the embedded base; diffusers itself is one of the readers."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from stages.adapters.algebra import Delta
from stages.adapters.storage import load_adapter
from stages.core.strategy import strategies
from stages.files import artifact, writing
from stages.runtime.faults import ConfigFault, InputFault, MachineFault
from stages.tools.exchange import source
from stages.tools.exchange.model_card import _about, metadata, model_card
from stages.tools.exchange.source import find_origin, preferred_run, run_named
from stages.tools.export import export
from stages.tools.import_lora import import_lora
from tests.support.drawn_study import DENSE, SUM, drawn_study
from tests.support.lora_readers import comfyui, ldm_names, open_lora

CREDIT = "Ann | <b>Bee</b>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    yield from drawn_study(tmp_path_factory.mktemp("export"))


def exported(study, run, to, **options):
    defaults = {"task": "02", "what": "state", "format": "kohya", "dtype": "fp16", "rank": None}
    args = Namespace(**defaults | {"accept_error": False, "verbose": False, "key": run, "to": Path(to)} | options)
    export(study, None, args)
    return next(Path(to).glob("*.safetensors")) if Path(to).is_dir() else Path(to)


def relative_error(actual, delta):
    """The largest relative error of a module."""
    assert sorted(actual) == delta.modules
    return max(float((actual[n].detach().float() - exact).norm() / exact.norm()) for n, exact in delta.matrices())


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 1e-3), ("fp32", 1e-6)])
def test_comfyui_reads_the_exact_state(study, tmp_path, dtype, tolerance):
    for run in (SUM, DENSE):
        file, notes = open_lora(exported(study, run, tmp_path / run, dtype=dtype))
        delta = find_origin(study, run, "02", "state").delta
        assert relative_error(comfyui(file, ldm_names(2, 1, delta.modules)), delta) <= tolerance
        assert notes.get("ss_network_dim") == ("8" if run == SUM else None)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize(("run", "rank"), [(SUM, None), (DENSE, 9999)], ids=["one rank", "full ranks"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 1e-3), ("fp32", 1e-6)])
def test_diffusers_reads_the_exact_state_and_predicts_the_same(study, tmp_path, form, run, rank, dtype, tolerance):
    path = exported(study, run, tmp_path / "here", format=form, dtype=dtype, rank=rank)
    family, delta = study.family, find_origin(study, run, "02", "state").delta
    prompts, noise = family.encode_prompts(["a photo of a zwz robot"]), torch.ones(1, *family.noise_shape())
    family.shift(delta)
    expected = _predicted(family, prompts, noise)
    family.shift(Delta())
    plain = _predicted(family, prompts, noise)
    family.pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    try:
        layers = {n: family.pipeline.unet.get_submodule(n) for n in delta.modules}
        name = next(iter(family.pipeline.unet.peft_config))
        assert {layer.scaling[name] for layer in layers.values()} == {1.0}
        assert relative_error({n: layer.get_delta_weight(name) for n, layer in layers.items()}, delta) <= tolerance
        actual = _predicted(family, prompts, noise)
    finally:
        family.pipeline.unload_lora_weights()
    change = float((expected - plain).norm())
    assert change > 0
    assert float((actual - expected).norm()) <= 10 * tolerance * change


@torch.no_grad()
def _predicted(family, prompts, noise):
    extra = {"text_embeds": prompts["pooled"], "time_ids": family.time_ids(1)}
    return family.pipeline.unet(noise, torch.tensor([500]), prompts["text"], added_cond_kwargs=extra).sample.float()


def test_metadata_and_model_card_describe_the_export(study, tmp_path):
    path = exported(study, SUM, tmp_path / "here")
    file, notes = open_lora(path)
    assert all(isinstance(value, str) for value in notes.values())
    assert notes["modelspec.architecture"] == "palimpsest-toy/lora"
    assert notes["modelspec.trigger_phrase"] == "zwz robot, sks owl"
    assert notes["ss_base_model_version"] == "palimpsest_toy"
    assert notes["ss_network_dim"] == notes["ss_network_alpha"] == "8"
    assert {float(value) for name, value in file.items() if name.endswith(".alpha")} == {8.0}
    assert json.loads(notes["ss_tag_frequency"])["zwz_robot"] == {"a photo of a zwz robot": 5}
    assert "base model: Apache-2.0; pictures: " in notes["modelspec.license"]
    assert notes["ss_network_args"] == "{}"
    assert not re.search(r"20\d\d-\d\d", json.dumps(notes))
    card = path.with_suffix(".md").read_text()
    for text in (
        "zwz robot",
        "a photo of a sks owl",
        study.base.options["revision"],
        r"merge\_init",
        "content sha256",
    ):
        assert text in card


def with_base(study, name, **options):
    """The study with another base."""
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
def test_the_licence_is_that_of_the_weights_and_the_names_those_of_the_family(study, name, path, licence, repo):
    origin, other = find_origin(study, SUM, "02", "state"), with_base(study, name, path=path)
    for form in ("kohya", "diffusers"):
        notes = metadata(other, origin, form, "4", "0")
        assert notes["modelspec.license"].startswith(f"base model: {licence}; pictures: ")
        ldm = form == "kohya" and name != "sd15"
        assert notes["modelspec.implementation"] == (
            "https://github.com/Stability-AI/generative-models" if ldm else "diffusers"
        )
        front = YAML(typ="safe").load(model_card(other, origin, "a.safetensors", form, "it", None).split("---")[1])
        assert front["base_model"] == repo
        assert front["license_name"] == notes["modelspec.license"]
        assert set(front) == {"tags", "license", "license_name", "base_model", "instance_prompt"}


def test_text_from_photos_is_escaped(study, tmp_path):
    with patch("stages.tools.exchange.source.artifact.read", side_effect=_credited):
        origin = find_origin(study, SUM, "01", "state")
    text = model_card(study, origin, "a`b.safetensors", "diffusers", "it", None)
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
    assert set(before) == {first.name, f"{first.stem}.md"}


def test_the_contact_sheet_of_a_report_is_exported(study, tmp_path, caplog):
    """Also when `palimpsest report` has written its page beside it; an export without it says so."""
    with artifact.publish(Path("report/small"), "report", {}) as draft:
        (draft / "grids").mkdir()
        Image.radial_gradient("L").convert("RGB").save(draft / "grids/objects-0-merge_init-0.png")
    Path("report/small/index.html").touch()
    try:
        path = exported(study, SUM, tmp_path / "mine.safetensors")
        with (
            Image.open("report/small/grids/objects-0-merge_init-0.png") as sheet,
            Image.open(path.with_suffix(".png")) as copy,
        ):
            assert copy.tobytes() == sheet.tobytes()
        assert "contact sheet" not in caplog.text
        Path("report/small/grids/objects-0-merge_init-0.png").write_bytes(b"damaged")
        with caplog.at_level("INFO", "palimpsest"):
            other = exported(study, SUM, tmp_path / "other.safetensors")
        assert not other.with_suffix(".png").exists()
        assert "No contact sheet" in caplog.text
    finally:
        shutil.rmtree("report/small")
    assert "](<mine.png>)" in path.with_suffix(".md").read_text()


def test_a_single_adapter_is_described_as_incomplete(study, tmp_path):
    path = exported(study, SUM, tmp_path / "here", what="adapter")
    assert open_lora(path)[1]["modelspec.trigger_phrase"] == "sks owl"
    assert "it alone is not the model after its task" in path.with_suffix(".md").read_text()
    path = exported(study, SUM, tmp_path / "first", what="adapter", task="01")
    assert "One adapter, trained on the base model." in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("strategy", sorted(strategies.classes))
def test_an_adapter_is_described_as_what_it_holds(study, strategy):
    origin = find_origin(study, f"objects/0/{strategy}/0", "02", "adapter")
    concepts = [data["concept"]["name"] for data in origin.data]
    if strategy in ("naive", "slao", "joint"):  # one adapter goes on; photos of all concepts
        assert len(concepts) == 2
        assert "One adapter of the base model that holds 2 concepts" in _about(origin)
    else:
        assert len(concepts) == 1
    assert origin.words == origin.triggers
    assert len(origin.words) == len(concepts)


def test_a_full_disk_is_reported_before_anything_is_written(study, tmp_path, monkeypatch):
    full = Namespace(total=10, used=10, free=0)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: full)
    with pytest.raises(MachineFault, match="0 Bytes are free"):
        exported(study, SUM, tmp_path / "here")
    assert not list(tmp_path.rglob("*.safetensors*"))


@pytest.mark.parametrize(
    ("options", "fault", "message"),
    [
        ({"run": "objects/0/naiv/0"}, ConfigFault, "Did you mean|There is"),
        ({"run": DENSE, "format": "diffusers"}, ConfigFault, "--rank N"),
        ({"run": DENSE, "rank": 1}, InputFault, "above the limit of 0.1"),
    ],
)
def test_impossible_exports_are_refused(study, tmp_path, options, fault, message):
    with pytest.raises(fault, match=message):
        exported(study, **{"run": SUM, "to": tmp_path / "here"} | options)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_an_export_can_be_imported_and_exported_again(study, tmp_path, form):
    path = exported(study, SUM, tmp_path / "out", format=form, dtype="fp32")
    folder = tmp_path / "adapters/mine"
    import_lora(study, None, Namespace(file=path, to=folder, alpha=None))
    manifest = artifact.read(folder, "adapter")
    assert manifest["adopted"]["format"] == form
    back = load_adapter(folder / "adapter.safetensors", manifest["scale"], study.family.shapes())
    delta = find_origin(study, SUM, "02", "state").delta
    assert relative_error(dict(back.delta.matrices()), delta) < 1e-6
    again = exported(study, str(folder), tmp_path / "again", task=None, what="adapter")
    assert relative_error(comfyui(open_lora(again)[0], ldm_names(2, 1, delta.modules)), delta) < 1e-3
    assert "trained elsewhere" in again.with_suffix(".md").read_text()
    assert "; imported adapter: base model: Apache-2.0; pictures: " in open_lora(again)[1]["modelspec.license"]
    with pytest.raises(ConfigFault, match="02/state: already exists and is not an import"):
        import_lora(
            study, None, Namespace(file=path, to=Path("runs/small/objects/0/merge_init/0/02/state"), alpha=None)
        )


def test_without_a_run_the_one_that_the_report_prefers_is_exported(study, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "REPORTS", tmp_path)
    with pytest.raises(ConfigFault, match="no report"):
        preferred_run(study)
    folder = tmp_path / study.study
    folder.mkdir()
    scores = {name: {"average_score": 0.1 * k} for k, name in enumerate(("magmax", "naive", "rehearse_words"))}
    (folder / "headline.json").write_text(json.dumps({"objects": {**scores, "base": {"average_score": 0.9}}}))

    def conclude(preferred):
        (folder / "conclusion.json").write_text(json.dumps({"warning": None, "objects": {"preferred": preferred}}))

    conclude("magmax")
    assert preferred_run(study).strategy == "magmax"
    conclude(None)  # the highest score among those that know the least; the base is no strategy
    assert preferred_run(study).strategy == "naive"
    for wrong in ("no_such_strategy", 3, ["naive"]):
        conclude(wrong)
        with pytest.raises(ConfigFault, match="no report"):
            preferred_run(study)
    (folder / "conclusion.json").write_text("[]")
    with pytest.raises(ConfigFault, match="no report"):
        preferred_run(study)
    conclude(None)
    assert find_origin(study, None, None, "state").name == "-".join([study.study, "objects-0-naive-0", "02"])
    assert str(run_named(study, "naive")) == "objects/0/naive/0"
    with pytest.raises(ConfigFault, match=r"has 2 runs\. Give one: objects/0/naive/0, objects/0/naive/1"):
        run_named(study.model_copy(update={"seeds": (0, 1)}), "naive")
