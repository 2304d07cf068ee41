"""The profile sdxl-quick from photos to report, on an SDXL with random weights and a hundredth of the size."""

import importlib
import json
from argparse import Namespace
from pathlib import Path

import pytest

from stages.core import params
from stages.core.runs import runs
from stages.files import artifact, tables
from stages.files.artifact import folder_digest
from stages.tools import profiles
from tests.support.run_study import run_all
from tests.support.workspace import change, workspace
from tests.test_pipeline import PHOTOS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.takes(40),
    pytest.mark.skipif(
        not PHOTOS.is_dir(), reason="no DreamBooth photos: set PALIMPSEST_DREAMBOOTH to its folder `dataset`"
    ),
]
SMALL_JUDGES = {
    "judges": "data/world/judges",
    "metrics": {"dino": {"path": "dino", "resize": 64}, "csd": {"path": "csd"}},
}


@pytest.fixture(scope="module")
def study(shallow_standin, tmp_path_factory):
    """The profile unchanged, except for sizes, depth, numbers of tasks and steps, the paths of photos and weights, and
    torch.compile."""
    standin = shallow_standin
    folder = workspace(tmp_path_factory.mktemp("quick") / "work")
    (folder / "params.yaml").write_text(profiles.text("sdxl-quick"), "utf-8")
    tree = profiles.tree("sdxl-quick")
    change(
        folder,
        source=str(PHOTOS),
        tasks=tree["tasks"][:2],
        prepare={"resolution": 64},
        train={"steps": 2, "checkpoint_every": 2},
        sample={"images": 1, "batch": 5, "steps": 2},
        score=SMALL_JUDGES,
    )
    vae = standin.path / "vae"
    options = {
        "path": str(standin.path),
        "revision": standin.revision,
        "vae": str(vae),
        "vae_revision": folder_digest(vae),
    }
    change(folder, base={"options": tree["base"]["options"] | options | {"pixels": 64, "compile": False}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        loaded = params.load()
        run_all(loaded)
        importlib.import_module("stages.report").report(loaded, None, Namespace())
        yield loaded


def test_every_task_of_every_strategy_has_scored_pictures(study):
    assert [run.strategy for run in runs(study)] == ["naive", "merge_init"]
    for run in runs(study):
        for index in ("01", "02"):
            assert artifact.read(run.at(index) / "state", "state")["family"] == "sdxl"
            pictures = artifact.read(run.at(index) / "images", "images")["files"]
            with_token, without_token = 5 * int(index), 5 * int(index) * study.sample.plain
            assert len(pictures) == with_token + without_token
        scores = tables.read(run.at("02") / "scores/scores.parquet", tables.SCORES).to_pylist()
        assert {(row["task"], row["metric"]) for row in scores} == {(t, m) for t in (1, 2) for m in ("dino", "csd")}


def test_prompts_and_options_are_those_of_the_paper(study):
    run = runs(study)[0]
    data = artifact.read(run.sequence.data("01"), "data")["concept"]
    assert (data["training_prompt"], data["prompts"][3]) == ("a photo of ofl bowl", "a ofl bowl in a jail")
    adapter = artifact.read(run.at("01") / "adapter", "adapter")
    assert (adapter["train"]["rank"], adapter["scale"], adapter["train"]["learning_rate"]) == (64, 1.0, 1e-5)
    assert len(study.family.shapes()) == 11 * 8  # of SDXL itself: tests/families/test_random_sdxl.py


def test_the_report_is_written(study):
    metrics = json.loads(Path("report/sdxl-quick/metrics.json").read_text("utf-8"))
    assert metrics
    assert Path("report/sdxl-quick/summary.txt").read_text("utf-8")
