"""The profiles that answer one question each: complete, counted correctly in the docs, and ready to run."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from flows.graph.graph import Graph
from stages.core import params
from stages.core.params import Params, checks
from stages.evaluation.geometry.alignment import MEASURES
from stages.files.artifact import folder_digest
from stages.reporting.aligned.wording import TITLE
from stages.tools import profiles
from stages.tools.forecasting.workload import count
from tests.support.run_study import report, run_all
from tests.support.workspace import ONE_METRIC, PROJECT, change, with_dvc, workspace
from tests.test_pipeline import PHOTOS

pytestmark = pytest.mark.takes(70)

QUESTIONS = profiles.groups()["questions"]
EMBEDDED = [name for name in QUESTIONS if profiles.tree(name)["base"]["name"] == "toy"]
REAL = [name for name in QUESTIONS if name not in EMBEDDED]
PAGE = PROJECT / "docs/questions.md"
ROW = re.compile(r"^\| `(?P<name>[a-z-]+)` \| (?P<counts>[\d, |]+) \|", re.M)
STYLES = PHOTOS.parents[1] / "styles"
MOST = {"steps": 14_000, "sampled": 10_000}  # about twice the default study


def numbers(study: Params) -> list[int]:
    """As the table of the page has them."""
    work = count(study)
    return [len(study.strategies), work.runs, work.tasks, work.trained, work.steps, work.sampled]


def rows() -> dict[str, list[int]]:
    """The table of the page."""
    text = PAGE.read_text("utf-8")
    return {
        row["name"]: [int(cell.replace(",", "")) for cell in row["counts"].split("|")] for row in ROW.finditer(text)
    }


def test_the_page_says_how_large_the_default_study_is():
    work = count(profiles.params(profiles.COMPLETE))
    text = " ".join(PAGE.read_text("utf-8").split())
    assert f"The default study trains {work.steps:,} steps and samples {work.sampled:,} pictures." in text


def test_no_two_profiles_share_a_name():
    names = Counter(path.stem for path in profiles.FOLDER.glob("**/*.yaml") if path.parent != profiles.PRESETS)
    assert {name for name, times in names.items() if times > 1} == set()
    assert sorted(names) == profiles.names()


def test_each_question_is_asked_of_the_embedded_world_and_of_sdxl():
    assert {f"sdxl-{name}" for name in EMBEDDED} - {*REAL} == set()
    assert {*REAL} - {f"sdxl-{name}" for name in EMBEDDED} <= {"sdxl-faces"}  # the embedded world draws no faces


@pytest.mark.parametrize("name", QUESTIONS)
def test_it_says_what_it_asks_and_is_on_the_page(name):
    assert "?" in profiles.summary(name) or "strategies in another domain" in profiles.summary(name)
    assert name in rows()
    assert f"PROFILE={name}" in PAGE.read_text("utf-8") or name.startswith("sdxl-")


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_question_of_the_embedded_world_takes_minutes(name):
    """`params` checks every rule."""
    study = profiles.params(name)
    assert rows()[name] == numbers(study)
    assert count(study).steps <= MOST["steps"]
    assert count(study).sampled <= MOST["sampled"]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no DreamBooth photos: set PALIMPSEST_DREAMBOOTH")
@pytest.mark.parametrize("name", REAL)
def test_a_question_of_sdxl_passes_every_check_that_needs_photos(name, standin, tmp_path):
    """On SDXL with random weights, so that its forecast can be counted."""
    tree, vae = profiles.tree(name), standin.path / "vae"
    folders = {"dreambooth": PHOTOS, "style_folders": STYLES, "faces": tmp_path}
    tree["source"] = str(folders[tree["dataset"]["name"]])
    for person in tree["sequences"].get("faces", {}).get("0", {}).values():
        (tmp_path / person).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / person / "1.png")
        (tmp_path / person / "licence.txt").write_text("drawn for this test")
    weights = {"path": str(standin.path), "revision": standin.revision, "vae": str(vae)}
    tree["base"]["options"] |= weights | {"vae_revision": folder_digest(vae)}
    for entry in tree["strategy"].values():  # the stand-in's modules are narrow
        if "rank" in entry.get("train", {}):
            entry["train"]["rank"] = 4
    tree["train"]["rank"] = 4
    study = Params.model_validate_json(json.dumps(tree))
    checks.check(study)
    assert rows()[name] == numbers(study)


def test_a_chain_of_changes_ends_at_the_complete_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    monkeypatch.setattr(profiles, "PRESETS", tmp_path / "memory")
    shutil.copy(PROJECT / "data/profiles/toy-objects.yaml", tmp_path)
    (tmp_path / "group").mkdir()
    for name, text in {
        "one.yaml": "study: one\ntrain: {rank: 4}\nsample: {images: 2}",
        "group/two.yaml": "from: one\nstudy: two\ntrain: {alpha: 4}",
        "lost.yaml": "from: ones\nstudy: lost",
        "round.yaml": "from: trip\nstudy: round",
        "trip.yaml": "from: round\nstudy: trip",
    }.items():
        (tmp_path / name).write_text(f"# {name}\n{text}\n", "utf-8")
    two = profiles.tree("two")
    assert (two["study"], two["train"]["rank"], two["train"]["alpha"], two["sample"]["images"]) == ("two", 4, 4, 2)
    assert "from" not in two
    assert profiles.groups() == {"": ["lost", "one", "round", "toy-objects", "trip"], "group": ["two"]}
    for name, said in (
        ("lost", r"lost.yaml: from: unknown profile 'ones'\. Did you mean 'one'"),
        ("trip", r"round.yaml: from: 'trip' is made from this one"),
        ("three", r"^unknown profile 'three'\."),
    ):
        with pytest.raises(profiles.ConfigFault, match=said):
            profiles.text(name)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return with_dvc(workspace(tmp_path_factory.mktemp("questions") / "work"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_everything_can_be_planned_and_its_first_stages_have_their_inputs(name, project, monkeypatch):
    monkeypatch.chdir(project)
    Path("params.yaml").write_text(profiles.text(name), "utf-8")
    study, graph = params.load(), Graph(project)
    planned = graph.plan()
    work = count(study)
    assert sum(stage.startswith("train@") for stage in planned) == work.adapters
    assert planned[-1] == "report"
    first = [stage for stage in planned if not graph.upstream(stage)]
    assert {stage.split("@")[0] for stage in first} == {"prepare", "start"}
    for stage in first:
        assert all(Path(dep.def_path).exists() for dep in graph.stages[stage].deps), stage
    graph.close()


@pytest.mark.slow
def test_a_question_runs_from_photos_to_its_page(tmp_path, monkeypatch):
    """The question with the most steps: what the models predict, and how that correlates with forgetting."""
    folder, tree = workspace(tmp_path / "work"), profiles.tree("alignment")
    (folder / "params.yaml").write_text(profiles.text("alignment"), "utf-8")
    few = {"steps": 3, "batch": 2}
    change(folder, tasks=tree["tasks"][:3], domains=["objects"], strategies=["merge_init", "inverse_sqrt"], train=few)
    change(folder, strategy={"inverse_sqrt": {"is": "scaled_sum", "train": {"steps": 2}}})
    change(folder, sample={"steps": 2, "images": 1, "responses": 2}, score=ONE_METRIC)
    monkeypatch.chdir(folder)
    study = params.load()
    run_all(study)
    report(study)
    leaf = json.loads(Path("report/alignment/metrics.json").read_text("utf-8"))["alignment"]["objects"]
    assert all(-1 <= leaf[measure]["all"]["value"] <= 1 for measure in MEASURES)
    assert TITLE in Path("report/alignment/results.md").read_text("utf-8")
    assert TITLE in Path("report/alignment/report.html").read_text("utf-8")
