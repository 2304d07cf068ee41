"""A new plug-in is one file: the examples of docs/researcher.md are copied into a copy of the project, where a study
runs with them and the tests over every registered name pass unchanged."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.files import tables
from tests.support.workspace import PROJECT, change, environment, workspace
from tests.test_docs import BLOCK

pytestmark = [pytest.mark.slow, pytest.mark.takes(80)]

KINDS = ("strategies", "metrics", "datasets", "families")
CONCEPTS = {"toy_bear": "bear", "plushie_cow": "cow plushie", "things_cup1": "cup"}
METRICS = {
    "dino": {"path": "dino", "resize": 64},
    "coarse_dino": {"is": "dino", "path": "dino", "resize": 48},
    "colours": {},
    "fine_colours": {"is": "colours", "bins": 8},
    "edges": {},
    "clip_t": {"path": "clip"},
}


def examples() -> dict[str, str]:
    """Returns the example files of docs/researcher.md: path -> text."""
    blocks = [text for language, text in BLOCK.findall((PROJECT / "docs/researcher.md").read_text("utf-8"))]
    return {text.splitlines()[0].removeprefix("# "): text for text in blocks if text.startswith("# stages/")}


def custom_concept_101(root: Path) -> None:
    """Writes three concepts of three photos in the layout of the published dataset."""
    rng, entries = np.random.default_rng(0), []
    (root / "prompts").mkdir(parents=True)
    for name, noun in CONCEPTS.items():
        folder = root / "benchmark_dataset" / name
        folder.mkdir(parents=True)
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        for number in range(3):
            noisy = np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
            photo = Image.fromarray(noisy).resize((64 + 8 * number, 64), Image.Resampling.BICUBIC)
            photo.save(folder / f"{number}.jpeg")
        (root / "prompts" / f"{name}.txt").write_text("{} in times square.\na sad {}.")
        entries.append(
            {
                "instance_prompt": f"photo of a <new1> {noun}",
                "class_prompt": noun,
                "instance_data_dir": f"./benchmark_dataset/{name}",
                "class_data_dir": f"./regularization/{name}",
                "prompt_filename": f"prompts/{name}.txt",
            }
        )
    (root / "dataset.json").write_text(json.dumps(entries))


def python(folder: Path, *words: str) -> str:
    """Runs Python with the code of a workspace; returns its output. It must succeed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment() | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace with all examples of the docs, and a study that uses them."""
    folder = workspace(
        tmp_path_factory.mktemp("new") / "work",
        strategies=["halves", "thinned", "light"],
        source="photos",
        train={"steps": 2},
    )
    for name, text in examples().items():
        (folder / name).write_text(text, "utf-8")
    custom_concept_101(folder / "photos")
    names = dict(zip(("t01", "t02"), CONCEPTS, strict=False))
    change(folder, dataset={"name": "custom_concept_101"}, sequences={"objects": {"0": names}})
    change(folder, base={"name": "tiny_sdxl"}, score={"metrics": METRICS})
    shutil.copytree(PROJECT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    """The same with the study finished; every state was also rebuilt from its adapters, bit by bit."""
    python(folder, "-m", "tests.support.run_study")
    return folder


def at(folder: Path, strategy: str, task: str) -> Path:
    return folder / "runs/small/objects/0" / strategy / "0" / task


def test_the_docs_show_one_file_of_each_kind() -> None:
    assert {Path(name).parts[1] for name in examples()} == {*KINDS}


def test_the_tests_over_every_registered_name_pass_for_the_new_names(folder) -> None:
    suites = [str(path.relative_to(folder)) for path in sorted((folder / "tests").glob("*/test_every_*.py"))]
    names = [Path(name).stem for name in examples() if Path(name).parts[1] != "families"]  # those need weights
    output = python(folder, "-m", "pytest", "-vv", "-p", "no:xdist", "-k", " or ".join(names), *suites)
    for name in names:
        passed = re.findall(rf"\[(?:[^\]]*-)?{name}\] PASSED", output)
        assert len(passed) >= 4, f"{name}: {passed}"
    assert python(folder, "-c", "import stages; print(stages.__file__)").startswith(str(folder))


def test_every_metric_has_scored_every_picture(finished) -> None:
    for strategy in ("halves", "thinned"):
        rows = tables.read(at(finished, strategy, "02") / "scores/scores.parquet", tables.SCORES).to_pylist()
        assert {(row["task"], row["metric"]) for row in rows} == {(t, m) for t in (1, 2) for m in METRICS}
        by_metric = {m: [row["score"] for row in rows if row["metric"] == m] for m in METRICS}
        assert by_metric["dino"] != by_metric["coarse_dino"]
        assert by_metric["colours"] != by_metric["fine_colours"]


def test_vectors_are_stored_for_metrics_that_embed_and_pictures_for_the_others(finished) -> None:
    scores = at(finished, "thinned", "02") / "scores"
    encoders = {*tables.read(scores / "embeddings.parquet", tables.EMBEDDINGS)["encoder"].to_pylist()}
    assert len(encoders) == 5, "edges has none"
    assert not any(name.startswith("edges") for name in encoders)
    copied = sorted(path.relative_to(scores).as_posix() for path in (scores / "references").rglob("*.png"))
    assert copied == [f"references/{task}/0{number}.png" for task in ("01", "02") for number in range(3)]


def test_strategies_differ_after_the_first_task(finished) -> None:
    halves, thinned = (
        [path.read_bytes() for path in sorted((at(finished, name, "01") / "images/01").glob("*.png"))]
        for name in ("halves", "thinned")
    )
    assert len(halves) == len(thinned) == 2
    assert halves != thinned


def test_a_term_in_the_loss_changes_what_the_first_task_learns(finished) -> None:
    halves, thinned, light = (
        tables.read(at(finished, name, "01") / "adapter/losses.parquet", tables.LOSSES).to_pydict()["loss"]
        for name in ("halves", "thinned", "light")
    )
    assert halves == thinned
    assert light[0] == halves[0]  # B is zero
    assert light[1] > halves[1]


def test_the_report_shows_them(finished) -> None:
    results = json.loads((finished / "report/small/metrics.json").read_text("utf-8"))["objects"]
    assert {*results} == {*METRICS}
    assert {"halves", "thinned"} <= {*results["edges"]}
    page = (finished / "report/small/report.html").read_text("utf-8")
    assert all(name in page for name in ("halves", "thinned", "cow plushie", "fine colours"))
    summary = results["dino"]["thinned"]
    assert "top1" in summary
    assert "top1" not in results["edges"]["thinned"]
