"""The command line `palimpsest`."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from ruamel.yaml import YAML

from flows import cli
from flows.commands import completion, console, doctor, plan, show_report
from flows.engine import journal
from flows.graph import stage_names
from stages.core.params import Params, load
from stages.reporting import data_files, stamp
from stages.runtime import process
from stages.runtime.exits import attempt
from stages.tools import edit_params, profiles
from stages.tools.edit_params import with_task
from tests.support.workspace import change, dvc, environment, hashes, with_dvc, workspace

pytestmark = pytest.mark.takes(90)

SLOW_TO_IMPORT = {"torch", "prefect", "dvc", "rich", "pyarrow", "numpy"}


@pytest.fixture
def palimpsest(monkeypatch, capfd):
    """A function that runs `palimpsest` in this process and returns exit code, stdout and stderr."""
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palimpsest", *words])
        try:
            code = attempt(cli._work)
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which nothing has run."""
    return with_dvc(workspace(tmp_path_factory.mktemp("cli") / "work"))


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def ready(graph_done, tmp_path, monkeypatch):
    """A project with a finished study."""
    shutil.copytree(graph_done[0], tmp_path / "work", symlinks=True)
    shutil.copytree(Path(".dvc/plots"), tmp_path / "work/.dvc/plots")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_help_imports_nothing_slow():
    code = """
import sys
from flows import cli
from flows.commands import show_report
plain = (["--help"], ["run", "--help"], ["concept", "add", "--help"], ["init", "--help"])
for words in (*plain, *([name, "--help"] for name in cli.MODULES), ["study", "make", "--help"]):
    sys.argv = ["palimpsest", *words]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
print("IMPORTED", *(name for name in sys.modules if "." not in name))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: palimpsest") == 4
    assert done.stdout.count("usage: palimpsest") == 8
    assert "75 stopped and saved" in done.stdout
    assert not SLOW_TO_IMPORT & set(done.stdout.split("IMPORTED")[1].split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell):
    env = environment() | {"_PALIMPSEST_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "flows.cli"]
    script = subprocess.run(command, env=env, capture_output=True, text=True).stdout
    assert "_PALIMPSEST_COMPLETE" in script
    if shell == "bash":
        env |= {
            "_PALIMPSEST_COMPLETE": "complete_bash",
            "COMP_WORDS": "palimpsest profile use toy-o",
            "COMP_CWORD": "3",
        }
        assert subprocess.run(command, env=env, capture_output=True, text=True).stdout.split() == ["toy-objects"]


@pytest.mark.parametrize(
    ("words", "start", "expected"),
    [
        (["export"], "obj", ["objects/0/merge_init/0"]),
        (["export", "objects/0/merge_init/0", "--task"], "", ["01", "02"]),
        (["export", "--task", "01", "--format"], "", ["diffusers", "kohya"]),
        (["paint", "objects/0/merge_init/0"], "--pro", ["--prompt"]),
        (["run"], "m", ["merge_init"]),
        (["concept", "remove"], "z", ["zwz_robot"]),
        (["concept", "redo"], "s", ["sks_owl"]),
        (["init", "new", "--profile"], "toy-o", ["toy-objects"]),
        (["fetch", "--for"], "sdxl-q", ["sdxl-quick"]),
        (["study"], "m", ["make"]),
        (["study", "make"], "--e", ["--each"]),
    ],
)
def test_completion_knows_the_project(here, monkeypatch, capsys, words, start, expected):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ |= {
        "_PALIMPSEST_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["palimpsest", *words, start]),
        "COMP_CWORD": str(len(words) + 1),
    }
    monkeypatch.setattr(sys, "argv", ["palimpsest"])
    with pytest.raises(SystemExit):
        cli.app(prog_name="palimpsest")
    assert sorted(capsys.readouterr().out.split()) == expected


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["plna"], 2, "Did you mean 'plan'?"),
        (["run", "--jobs", "many"], 2, "--jobs"),
        (["run", "--jbos", "2"], 2, "unknown option --jbos. Did you mean '--jobs'?"),
        (["concept", "list", "--jsno"], 2, "unknown option --jsno. Did you mean '--json'?"),
        (["export", "--tsak", "3"], 2, "unknown option --tsak. Did you mean '--task'?"),
        (["study", "make", "--eahc", "3"], 2, "unknown option --eahc. Did you mean '--each'?"),
        (["fetch", "--hbu", "x"], 2, "unknown option --hbu. Did you mean '--hub'?"),
        (["plan", "now"], 2, "now"),
        (["concept", "add"], 2, "NAME"),
        (["concept", "add", "zwz_robot", "--yes"], 2, "already has 'zwz_robot'"),
        (["study", "make", "--to", "data"], 2, "--to data: is a folder. Give the page itself, as in data/page.html"),
        (["study", "make", "--to", "dvc.yaml/page.html"], 2, "dvc.yaml: is a file, not a folder"),
        (["concept", "add", "zwz_hart", "--yes"], 2, "Did you mean 'zwz_robot'?"),
        (["concept", "add", "cats/tom", "--yes"], 2, "no domain 'cats'"),
        (["concept", "add", "tom", "--photos", "nowhere", "--yes"], 2, "nowhere: is not a folder"),
        (["concept", "remove", "zwz_hart", "--yes"], 2, "Did you mean 'zwz_robot'?"),
        (["concept", "redo", "zwz_hart", "--yes"], 2, "Did you mean 'zwz_robot'?"),
        (["profile", "use", "toy-object"], 2, "Did you mean 'toy-objects'?"),
        (["profile", "use", "quick"], 2, "--force"),
        (["init", "."], 2, "not empty"),
        (["init", "new", "--profile", "toy-object"], 2, "Did you mean 'toy-objects'?"),
        (["run", "objects/0/naiv/0"], 2, "there is no run"),
        (["report"], 3, "there is no report yet"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(here, palimpsest, words, code, message):
    before = hashes(here, "params.yaml", "data") | {"params": (here / "params.yaml").read_text("utf-8")}
    actual, _, err = palimpsest(*words)
    assert actual == code
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert before == hashes(here, "params.yaml", "data") | {"params": (here / "params.yaml").read_text("utf-8")}


@pytest.mark.parametrize("words", [[], ["concept"], ["profile"]])
def test_a_command_without_a_subcommand_prints_its_help(palimpsest, words):
    code, out, err = palimpsest(*words)
    assert (code, err) == (0, "")
    assert "Commands:" in out


def test_quick_commands_import_nothing_slow(here):
    code = """
import sys
from flows import cli
from flows.commands import show_report
for words in (["profile", "list"], ["profile", "show", "quick"], ["status"], ["concept", "list"]):
    sys.argv = ["palimpsest", *words]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
print("IMPORTED", *(name for name in sys.modules if "." not in name))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "prefect", "dvc", "pyarrow", "diffusers"} & set(done.stdout.split("IMPORTED")[1].split())


def test_outside_a_project_the_error_says_how_to_create_one(tmp_path, monkeypatch, palimpsest):
    monkeypatch.chdir(tmp_path)
    reading = (["status"], ["report"], ["plan"], ["watch", "--no-open"], ["concept", "remove", "mug", "--yes"])
    for words in (*reading, ["profile", "use", "quick"]):
        code, _, err = palimpsest(*words)
        assert (code, "palimpsest init my-study" in err) == (2, True), err
    assert not list(tmp_path.iterdir())


def test_outside_a_project_the_profiles_are_those_that_a_project_can_begin_with(tmp_path, monkeypatch, palimpsest):
    listed, shown = profiles.names(), profiles.text("quick")
    monkeypatch.chdir(tmp_path)
    assert sorted(json.loads(palimpsest("profile", "list", "--json")[1])) == listed == completion.profile_names()
    assert palimpsest("profile", "show", "quick")[1] == shown
    assert palimpsest("profile", "list")[1].splitlines()[-1] == "Next: palimpsest init my-study --profile NAME"


def test_ctrl_c_in_any_command_is_one_line(here, palimpsest, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.commands.status.read_status", interrupted)
    assert palimpsest("status") == (130, "", "error: interrupted. Run the same command again to continue.\n")


def test_a_bug_leaves_its_traceback_in_a_file(here, palimpsest, monkeypatch):
    monkeypatch.setattr("flows.commands.status.read_status", lambda: 1 / 0)
    code, _, err = palimpsest("status")
    assert code == 70
    assert "This is a bug" in err
    assert "Traceback" in (here / ".cache/crash.log").read_text("utf-8")


def test_profiles_are_listed_shown_and_used(tmp_path, monkeypatch, palimpsest):
    monkeypatch.chdir(workspace(tmp_path / "work"))
    change(tmp_path / "work", train={"steps": 7})
    assert set(json.loads(palimpsest("profile", "list", "--json")[1])) == set(profiles.names())
    assert palimpsest("profile", "show", "quick")[1] == profiles.text("quick")
    assert palimpsest("profile", "use", "quick", "--force")[0] == 0
    assert Path("params.yaml").read_text("utf-8") == profiles.text("quick")
    assert "already" in palimpsest("profile", "use", "quick")[1]


@pytest.mark.parametrize(
    "words", [["plan"], ["run", "--no-view"], ["forecast"], ["doctor"]], ids=lambda words: words[0]
)
def test_missing_weights_are_reported_with_the_command_that_downloads_them(tmp_path, monkeypatch, palimpsest, words):
    monkeypatch.chdir(with_dvc(workspace(tmp_path / "work", base=profiles.tree("sdxl-quick")["base"])))
    monkeypatch.setattr("stages.core.command.die_with_parent", lambda: None)
    code, out, err = palimpsest(*words)
    assert code == 3
    assert "data/models/sdxl-base-1.0/unet: no safetensors here" in out + err
    assert "make weights PROFILE=" in out + err
    assert "python -m stages.tools.fetch" in out + err
    if words != ["doctor"]:
        assert err.strip().splitlines()[-1].startswith("error: data/models/sdxl-base-1.0")


def test_missing_weights_of_a_judge_are_found_before_anything_runs(tmp_path, monkeypatch, palimpsest):
    monkeypatch.chdir(with_dvc(workspace(tmp_path / "work")))
    dino = "data/world/judges/dino"
    Path(dino, "model.safetensors").unlink()
    for words in (["plan"], ["run", "--plan"]):
        code, _, err = palimpsest(*words)
        assert (code, err.count("\n")) == (3, 1)
        assert err.startswith(f"error: {dino}/model.safetensors: missing, but {dino}/SHA256SUMS pins it.")
    code, out, _ = palimpsest("doctor", "--json")
    (wrong,) = (one for one in json.loads(out) if one["what"] == "weights" and one["code"])
    assert (wrong["code"], wrong["message"].partition(": ")[0]) == (3, f"{dino}/model.safetensors")
    shutil.rmtree("data/world/judges/csd")
    code, _, err = palimpsest("plan")
    assert (code, err.count("\n")) == (3, 2)
    assert "data/world/judges/csd: no such weights of a judge" in err


def test_a_class_prompt_with_the_token_is_refused_before_anything_runs(tmp_path, monkeypatch, palimpsest):
    folder = with_dvc(workspace(tmp_path / "work", train={"prior": {"prompt": "a picture of zwz"}}))
    monkeypatch.chdir(folder)
    code, _, err = palimpsest("plan")
    assert (code, err.count("\n")) == (2, 1)
    assert re.match(
        r"error: params\.yaml:\d+: train\.prior\.prompt: the class prompt 'a picture of zwz' contains the token 'zwz'",
        err,
    )


def test_status_shows_finished_tasks_the_running_process_and_errors(tmp_path, monkeypatch, palimpsest):
    monkeypatch.chdir(workspace(tmp_path / "work"))
    for verb in ("adapter", "state", "images", "scores"):
        folder = Path("runs/small/objects/0/merge_init/0/01", verb)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    facts = json.loads(palimpsest("status", "--json")[1])
    assert (facts["tasks_done"], facts["tasks_of_all_runs"], facts["running"]) == (1, 2, None)
    one = journal.Journal.begin(14)
    with process.lock(Path(".cache/flow/lock")):
        one.note(3, "task 01 / train", "5 s")
        one._write()
        _, out, _ = palimpsest("status")
        assert f"pid {os.getpid()}" in out
        assert "3 of 14 stages" in out
    assert "was killed" in palimpsest("status")[1]
    one.end(3, [{"stage": "task 01 / train", "what": "diverged"}])
    _, out, _ = palimpsest("status")
    assert "Nothing is running" in out
    assert "ended with exit code 3" in out
    assert "task 01 / train: diverged" in out
    one.end(75, [])
    ended = f"The run of {one.began} was stopped and saved after 3 of 14 stages. Continue it: palimpsest run"
    assert ended in palimpsest("status")[1].splitlines()


def test_a_plan_in_which_no_result_is_new_has_no_empty_tables(here, monkeypatch, capsys):
    facts = {"stages": ["prepare"], "changed": [], "notes": [], "verbs": {}, "reasons": {}, "causes": {}}
    nothing = SimpleNamespace(
        **facts, sentence=lambda: "Nothing new.", effect=lambda params: [("a", "01", "b", "stays")]
    )
    monkeypatch.setattr(plan, "current_plan", lambda params: nothing)
    plan.show(json=False)
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line][:3] == [
        ["Nothing", "new."],
        ["domain", "concept", "what", "happens"],
        ["01", "a", "b", "stays"],
    ]


def test_the_page_that_is_opened_names_its_run(here, palimpsest, monkeypatch):
    folder = Path("report/small")
    folder.mkdir(parents=True)
    for name, text in (("metrics.json", "{}"), ("headline.json", "{}"), ("conclusion.json", '{"warning": null}')):
        (folder / name).write_text(text)
    (folder / "report.html").write_text(f"<dl>{stamp.SLOT}</dl>")
    monkeypatch.setattr(journal, "_machine", lambda: "1 x <GPU>")
    monkeypatch.setattr(journal, "_commit", lambda: "0123456789abcdef+")
    monkeypatch.setattr(journal, "repository", lambda: "https://host/me/it")
    began = journal.Journal.begin(2).began
    code, out, err = palimpsest("report", "--no-open")
    assert code == 0, err
    assert "report/small/index.html" in out
    page = (folder / "index.html").read_text()
    assert f"<dd>began {began}, on 1 x &lt;GPU&gt;</dd>" in page
    assert (
        'href="https://host/me/it/commit/0123456789abcdef">0123456789</a>, with changes that are in no commit' in page
    )
    assert (folder / "report.html").read_text() == f"<dl>{stamp.SLOT}</dl>", "it depends on no time or machine"
    code, _, err = palimpsest("report", "--against", "none")
    assert (code, err.count("\n")) == (3, 1)
    assert "report/small: no report with scores.parquet" in err
    shutil.rmtree("report")
    journal.JOURNAL.unlink()


def test_the_doctor_runs_every_check(here, palimpsest):
    _, out, _ = palimpsest("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(out)}
    machine, study = {"libraries", "processor", "GPU", "memory", "disk"}, {"project", "weights", "remote", "Prefect"}
    assert set(findings) == machine | study
    assert findings["weights"]["how"] == "ok"
    change(here, base={"options": {"path": "data/world/base", "revision": "0" * 64, "dtype": "float32"}})
    code, out, _ = palimpsest("doctor", "--json")
    assert code in (3, 4)
    assert next(one for one in json.loads(out) if one["what"] == "weights")["code"] == 3
    shutil.copy(here / "data/profiles/toy-objects.yaml", here / "params.yaml")


def test_what_a_check_of_the_doctor_raises_is_one_line(monkeypatch):
    def busy():
        yield "one GPU"
        raise RuntimeError("CUDA error: device is busy\nCUDA kernel errors might be reported later")

    def wrong():
        yield from {}["missing"]

    monkeypatch.setattr(doctor, "CHECKS", {"GPU": busy, "disk": wrong, "memory": doctor._memory})
    findings = [(one.what, one.how, one.message, one.code) for one in doctor.examine()]
    assert findings[:3] == [
        ("GPU", "ok", "one GPU", 0),
        ("GPU", "wrong", "RuntimeError: CUDA error: device is busy", 4),
        ("disk", "wrong", "KeyError: 'missing'", 70),
    ]
    assert findings[3][:2] == ("memory", "ok")


@pytest.mark.parametrize("name", profiles.names())
def test_adding_and_removing_a_concept_restores_params_yaml(name):
    text = profiles.text(name)
    concepts = dict.fromkeys(YAML(typ="safe").load(text)["domains"], "something_new")
    added = with_task(text, concepts)
    assert added != text
    assert "something_new" in added
    assert edit_params.without_concept(added, concepts) == text


def test_a_new_project_with_photos_can_be_planned(tmp_path, monkeypatch, palimpsest):
    photos = tmp_path / "photos"
    for name in ("toy", "mug"):
        (photos / name).mkdir(parents=True)
        Image.radial_gradient("L").convert("RGB").save(photos / name / "1.jpg")
    shutil.copy(photos / "toy/1.jpg", photos / "toy/2.jpg")
    note = "toy: 2.jpg: the same file as 1.jpg"
    monkeypatch.chdir(tmp_path)
    code, out, _ = palimpsest("init", "mine", "--photos", str(photos))
    assert code == 0
    assert "mug, toy" in out
    assert out.splitlines().count(note) == 1
    monkeypatch.chdir(tmp_path / "mine")
    code, out, err = palimpsest("plan", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["notes"] == [note]
    assert palimpsest("plan")[1].splitlines().count(note) == 1
    assert plan["total"] == len(plan["stages"])
    assert "prepare@objects-0-task1" in plan["stages"]
    assert plan["reasons"] == {
        "not run yet": 2 + len(profiles.COMPLETE and json.loads(palimpsest("status", "--json")[1])["runs"])
    }
    assert [row["concept"] for row in json.loads(palimpsest("concept", "list", "--json")[1])] == ["mug", "toy"]
    (photos / "mug" / "2.jpg").write_bytes(b"no photo")
    code, _, err = palimpsest("concept", "redo", "mug", "--photos", str(photos / "mug"), "--yes")
    assert code == 3
    assert "2.jpg" in err
    assert not Path("data/photos/mug/2.jpg").exists()
    assert Path("data/photos/mug/1.jpg").exists()


def test_a_module_is_a_command_under_its_own_name(capfd):
    with pytest.raises(SystemExit) as end:
        cli._module("train", "stages.train", ["--help"])
    assert end.value.code == 0
    assert "usage: palimpsest train" in capfd.readouterr().out


@pytest.mark.slow
def test_adding_and_removing_a_concept_shows_the_effect_on_the_others(ready, palimpsest):
    code, out, err = palimpsest("plan", "--json")
    assert (code, json.loads(out)["stages"]) == (0, []), err
    assert "Nothing was changed" in palimpsest("concept", "redo", "sks_owl", "--yes")[1]
    code, out, err = palimpsest("concept", "add", "pdw_rocket", "--yes", "--jobs", "1", "--no-view")
    assert code == 0, out + err
    assert ", 1 at a time" in out
    lines = out.splitlines()
    assert any(line.split() == ["01", "zwz_robot", "stays", "as", "it", "is"] for line in lines)
    assert any(line.split() == ["03", "pdw_rocket", "new"] for line in lines)
    assert any("zwz_robot" in line and "(was " in line for line in lines)
    assert any("pdw_rocket" in line and "(new)" in line for line in lines)
    code, out, _ = palimpsest("concept", "remove", "zwz_robot", "--yes", "--no-run")
    assert any(line.split() == ["01", "sks_owl", "learned", "again"] for line in out.splitlines())
    assert palimpsest("concept", "add", "zwz_robot", "--yes", "--no-run")[0] == 0
    rows = json.loads(palimpsest("concept", "list", "--json")[1])
    assert [row["concept"] for row in rows] == ["sks_owl", "pdw_rocket", "zwz_robot"]


@pytest.mark.slow
def test_adding_and_removing_a_concept_restores_the_study(ready, palimpsest):
    before = hashes(ready)
    params = Path("params.yaml").read_text("utf-8")
    assert palimpsest("concept", "add", "pdw_rocket", "--yes", "--no-run")[0] == 0
    dvc(ready, "repro", "prepare")
    code, out, err = palimpsest("concept", "remove", "pdw_rocket", "--yes", "--no-view")
    assert code == 0, out + err
    assert Path("params.yaml").read_text("utf-8") == params
    assert "ran" not in out.split("Removed")[1].split()
    assert hashes(ready) == before
    assert palimpsest("concept", "add", "pdw_rocket", "--yes", "--no-run")[0] == 0  # all its results are cached
    assert "pdw_rocket" in Path("params.yaml").read_text("utf-8")


@pytest.mark.slow
def test_the_report_and_dvc_show_the_results(ready, palimpsest):
    code, out, _ = palimpsest("report", "--json")
    assert code == 0
    assert json.loads(out)["page"].startswith("report/small/")
    assert "merge_init" in palimpsest("report", "--no-open")[1]
    shown = json.loads(dvc(ready, "metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["report/small/headline.json"]
    dvc(ready, "plots", "show", "--out", "drawn")
    page = (ready / "drawn/index.html").read_text("utf-8")
    assert "mean score of the tasks so far" in page
    assert "score on task" in page
    assert "zwz_robot" in page


def test_the_report_is_a_sentence_a_small_table_and_a_path(here, palimpsest, monkeypatch):
    folder = here / "report" / edit_params.tree()["study"]
    folder.mkdir(parents=True)
    measures = {
        "naive": {"average_score": 0.18, "forgetting_unbiased": 0.3},
        "base": {"average_score": 0.13},
        "magmax": {"average_score": 0.37, "forgetting_unbiased": -0.001},
    }
    bounds = {
        strategy: {name: {"value": x, "low": x - 0.1, "high": x + 0.1} for name, x in values.items()}
        for strategy, values in measures.items()
    }
    (folder / "headline.json").write_text(json.dumps({"objects": measures}))
    bounds["ceiling"] = {"average_score": {"value": 0.83, "low": 0.78, "high": 0.88}}
    tree = {"objects": {"dino": bounds}, "regimes": {"naive": "strict", "magmax": "words"}}
    (folder / "metrics.json").write_text(json.dumps(tree))
    sentence = "After 10 objects, no difference between strategies is significant by dino: " + "and so on " * 10
    conclusion = {"warning": None, "objects": {"sentence": sentence, "preferred": None, "branch": "tie"}}
    (folder / "conclusion.json").write_text(json.dumps(conclusion))
    (folder / "report.html").write_text("")
    code, out, _ = palimpsest("report", "--no-open")
    assert code == 0
    assert out.startswith("After 10 objects, no difference")
    assert len(out.splitlines()) < 20
    page = "index.html" if journal.read() else "report.html"  # another test may have left a run's journal
    assert f"{folder.relative_to(here)}/{page}" in out
    facts = json.loads(palimpsest("report", "--json")[1])
    assert facts["conclusion"]["objects"]["branch"] == "tie"
    assert "palimpsest profile use toy-objects" not in out
    conclusion["objects"]["branch"] = "too few"
    (folder / "conclusion.json").write_text(json.dumps(conclusion))
    assert "palimpsest profile use toy-objects   narrower intervals" in palimpsest("report", "--no-open")[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "72")
    _, out, _ = palimpsest("report", "--no-open")
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= 72
    rows = [re.split(" {2,}", line.strip()) for line in lines if "[" in line and "]" in line]
    assert [row[0] for row in rows] == ["naive", "magmax", "base model", "photos (ceiling)"]
    assert [row[1] for row in rows] == ["strict", "words", "-", "-"]
    assert rows[-1][2:] == ["0.83 [0.78, 0.88]", "-"], "photos forget nothing"
    assert "0.37 [0.27, 0.47]" in out
    assert f"{folder.relative_to(here)}/results.md" in out
    assert "-0.00" not in out
    shutil.rmtree(folder)


def test_a_name_in_a_narrow_table_stays_whole(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    key = "strategy.rehearse_words.train.learning_rate"
    console.table(("setting", "this study", "another"), [(key, "a value of many words " * 3, "0.0032")])
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert any(line.split()[:1] == [key] for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.fixture
def reported(here):
    """A project with a report of its study, as params.yaml has it."""
    params, before = load(), (here / "params.yaml").read_text("utf-8")
    folder = here / "report" / params.study
    folder.mkdir(parents=True)
    by_dino = {"merge_init": {"average_score": {"value": 0.4, "low": 0.3, "high": 0.5}}}
    files = {"headline.json": {"objects": {"merge_init": {"average_score": 0.4}}}, "conclusion.json": {"warning": None}}
    files |= {"metrics.json": {"objects": {"dino": by_dino}}, "settings.json": data_files.settings(params)}
    for name, tree in files.items():
        (folder / name).write_text(json.dumps(tree))
    learned = enumerate(params.sequence("objects", "0").values(), 1)
    cells = [f"objects,merge_init,0,0,dino,{i},{i},{name},0.4\n" for i, name in learned]
    (folder / "matrix.csv").write_text("domain,strategy,order,seed,metric,after,task,concept,score\n" + "".join(cells))
    yield folder
    shutil.rmtree(folder.parent)
    (here / "params.yaml").write_text(before, "utf-8")


def test_a_report_made_with_other_parameters_says_which(here, reported, palimpsest):
    assert "other parameters" not in palimpsest("report", "--no-open")[1]
    assert json.loads(palimpsest("report", "--json")[1])["changed_since"] == []
    change(here, prepare={"resample": "lanczos"})  # the default
    with (here / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("\nwatch: {previews_every: 2}\n")  # changes no result
    assert "other parameters" not in palimpsest("report", "--no-open")[1]
    change(here, train={"rank": 8}, strategy={"magmax": {"threshold": 2.0}}, report={"identity": "csd"})
    with_third = with_task((here / "params.yaml").read_text("utf-8"), {"objects": "ofl_dog"})
    (here / "params.yaml").write_text(with_third, "utf-8")
    keys = ["train.rank", "strategy", "report.identity", "sequences"]
    assert json.loads(palimpsest("report", "--json")[1])["changed_since"] == keys
    _, out, _ = palimpsest("report", "--no-open")
    assert f"now ({', '.join(keys)}): palimpsest run makes it anew." in " ".join(out.split())
    assert "objects by dino" in out, "its own metric of identity"


@pytest.mark.parametrize("words", [["report", "--no-open"], ["concept", "list"]])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("identity: dino", "identity: dimo", "report.identity: 'dimo' is not in score.metrics. Did you mean 'dino'?"),
        ("\nreport:", "\nreprot:", "unknown key 'reprot'. Did you mean 'report'?"),
        ("\ndataset:", "\ndatset:", "unknown key 'datset'. Did you mean 'dataset'?"),
    ],
)
def test_a_mistake_in_params_is_not_one_of_the_report(here, reported, palimpsest, words, old, new, message):
    text = (here / "params.yaml").read_text("utf-8")
    (here / "params.yaml").write_text(text.replace(old, new), "utf-8")
    code, _, err = palimpsest(*words)
    assert (code, err.count("\n")) == (2, 1), err
    assert re.match(r"error: params\.yaml:\d+: ", err)
    assert message in err


@pytest.mark.parametrize("name", profiles.names())
def test_no_profile_differs_from_the_settings_in_its_own_report(name):
    tree = profiles.tree(name)
    settings = data_files.settings(Params.model_validate_json(json.dumps(tree)))
    assert list(show_report.unlike(json.loads(json.dumps(settings)), tree)) == []


def test_titles_omit_parts_that_are_the_same_for_all_stages():
    plan = ["train@objects-0-naive-0-task0", "train@objects-0-naive-1-task0", "sample_base@objects-0", "report"]
    assert list(stage_names.titles(plan).values()) == [
        "naive / seed 0 / task 01 / train", "naive / seed 1 / task 01 / train", "sample of the base", "report",
    ]  # fmt: skip
    assert stage_names.titles(["prepare@objects-0-task1", "prepare@styles-1-task1"])["prepare@styles-1-task1"] == (
        "styles / order 1 / task 02 / prepare"
    )
