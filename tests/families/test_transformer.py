"""A transformer as one new file: it runs through every stage and is exported under a transformer's names."""

import json
import shutil
import sys
from argparse import Namespace

import pytest

import stages.families
from stages.adapters.storage import load_adapter
from stages.core import params
from stages.core.family import families
from stages.core.runs import runs
from stages.core.states import state_after
from stages.files import artifact, tables
from stages.runtime.faults import ConfigFault
from stages.tools.export import export
from stages.tools.import_lora import import_lora
from tests.support.family_properties import PROPERTIES, offline
from tests.support.lora_readers import open_lora
from tests.support.run_study import run_all
from tests.support.workspace import ONE_METRIC, PROJECT, change, workspace

SAMPLE = {"steps": 2, "images": 1, "guidance": 3.0, "scheduler": "flow", "plain": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace with the new file, which is registered in this process too."""
    base = {"name": "tiny_dit", "options": {"seed": 1, "path": "data/world"}}
    place = workspace(tmp_path_factory.mktemp("transformer") / "work", base=base, sample=SAMPLE, score=ONE_METRIC)
    shutil.copy(PROJECT / "tests/support/models/tiny_dit.py", place / "stages/families")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages.families, "__path__", [*stages.families.__path__, str(place / "stages/families")])
        patch.setattr(families, "_classes", families.classes)  # a copy, so that the new one is removed afterwards
        patch.setattr(families, "_complete", False)
        patch.chdir(place)
        yield place
    sys.modules.pop("stages.families.tiny_dit")


@pytest.fixture(scope="module")
def study(folder):
    loaded = params.load()
    run_all(loaded)
    return loaded


def test_it_runs_through_every_stage(study):
    (run,) = runs(study)
    assert artifact.read(run.at("02") / "state", "state")["family"] == "tiny_dit"
    assert state_after(study, run, "02").delta.modules == sorted(study.family.shapes())
    rows = tables.read(run.at("02") / "scores/scores.parquet", tables.SCORES).to_pylist()
    assert {row["task"] for row in rows} == {1, 2}
    losses = tables.read(run.at("02") / "adapter/losses.parquet", tables.LOSSES).to_pylist()
    assert len(losses) == study.train.steps
    pictures = {p.read_bytes() for p in (run.at("01") / "images/01").iterdir()}
    assert pictures.isdisjoint(p.read_bytes() for p in (run.at("02") / "images/01").iterdir())


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("diffusers", "transformer.single_transformer_blocks.1.attn.to_out.0.lora_A.weight"),
        ("kohya", "lora_transformer_single_transformer_blocks_1_attn_to_out_0.lora_down.weight"),
    ],
)
def test_it_is_exported_under_its_own_names_and_imported_again(study, tmp_path, form, name):
    (run,) = runs(study)
    usual = {"task": "02", "what": "state", "dtype": "fp32", "rank": None, "accept_error": False, "verbose": False}
    export(study, None, Namespace(key=str(run), to=tmp_path / "out", format=form, **usual))
    (path,) = (tmp_path / "out").glob("*.safetensors")
    tensors, notes = open_lora(path)
    assert name in tensors
    assert not any("unet" in key for key in tensors)
    assert notes["modelspec.architecture"] == "tiny-dit/lora"
    assert notes["ss_base_model_version"] == "tiny_dit"
    if form == "diffusers":
        config = json.loads(notes["lora_adapter_metadata"])
        assert config["transformer.target_modules"] == sorted(study.family.shapes())
    (card,) = (tmp_path / "out").glob("*.md")
    assert "changes the text encoders" not in card.read_text()
    there = tmp_path / "back"
    import_lora(study, None, Namespace(file=path, to=there, alpha=None))
    manifest = artifact.read(there, "adapter")
    assert manifest["adopted"]["format"] == form
    back = load_adapter(there / "adapter.safetensors", manifest["scale"], study.family.shapes())
    for module, matrix in state_after(study, run, "02").delta.matrices():
        assert float((back.module(module) - matrix).norm()) <= 1e-6 * float(matrix.norm())


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
def test_it_has_the_properties_of_every_family(folder, tmp_path, holds):
    assert "tiny_dit" in families.classes
    holds(offline("tiny_dit", tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        (
            "sample",
            {"scheduler": "euler"},
            r"sample\.scheduler: base tiny_dit has no scheduler 'euler'\. There is: flow",
        ),
        ("train", {"snr_gamma": 5.0}, r"train\.snr_gamma: base tiny_dit does not read it, so it cannot be 5\.0"),
        ("train", {"layers": "peft"}, r"train\.layers: base tiny_dit does not read it.*it reads: none"),
    ],
)
def test_options_that_it_does_not_read_are_refused(folder, section, value, message):
    path = folder / "params.yaml"
    before = path.read_text("utf-8")
    change(folder, **{section: value})
    try:
        with pytest.raises(ConfigFault, match=rf"^params\.yaml:\d+: {message}"):
            params.load()
    finally:
        path.write_text(before, "utf-8")
