"""A concept from the live page: what is refused before a photo is read, what the command receives, and kills."""

import json
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from flows.commands import concepts, console, new_project
from flows.commands.profile_group import profile_use
from flows.engine.photo_check import contents, own_photos
from flows.watching import adding, command, server
from flows.watching.adding import Adding
from flows.watching.page import LivePage
from stages.core.params import Prepare, load
from stages.datasets.folder import Folder
from stages.files import undo
from stages.files.yaml import PARAMS
from stages.runtime.faults import ConfigFault, MachineFault
from stages.runtime.process import lock
from stages.tools import edit_params, profiles
from tests.support.synthetic_study import parameters, write
from tests.support.workspace import PROJECT, hashes, with_dvc, workspace

TOKEN, PORT = "the-token", 4242
ADDRESS = f"http://127.0.0.1:{PORT}"
PHOTO = b"\xff\xd8 one photo"
GOOD = {"name": "cup", "noun": "", "files": [{"name": "1.jpg", "size": len(PHOTO)}]}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page of a study of own photos; its commands are not run but recorded."""
    monkeypatch.chdir(tmp_path)
    params = parameters(dataset="folder").model_copy(update={"prepare": Prepare(resolution=16, max_megabytes=1)})
    write(params)
    PARAMS.write_text(json.dumps({"study": params.study, "domains": ["objects"], "orders": ["0"], "seeds": [0],
        "strategies": list(params.strategies), "tasks": [task.model_dump() for task in params.tasks],
        "sequences": params.sequences}), "utf-8")  # fmt: skip
    monkeypatch.setattr(adding, "own_photos", lambda params: params)
    return LivePage(lambda: params)


@pytest.fixture
def form(page):
    """The form's server."""
    with closing(Adding(page)) as made:
        yield made


@pytest.fixture
def client(page, form):
    client = TestClient(server.application(page, form, TOKEN, PORT), base_url=ADDRESS)
    client.headers["origin"], client.params = ADDRESS, {"token": TOKEN}
    return client


def recorded(monkeypatch, printed: str = "") -> list[tuple[str, ...]]:
    words: list[tuple[str, ...]] = []
    monkeypatch.setattr(command, "_run", lambda given: words.append(given) or printed)
    return words


def names(*names: str) -> dict:
    return GOOD | {"files": [{"name": name, "size": 1} for name in names]}


@pytest.mark.parametrize("path", ["/draft", "/photos", "/add"])
def test_nobody_else_can_add_and_reading_adds_nothing(client, path, monkeypatch):
    words, before = recorded(monkeypatch), hashes(Path(), ".")
    assert client.get(path).status_code == 405
    for query, headers in (
        ({"token": ""}, {}),
        ({}, {"origin": "null"}),
        ({}, {"origin": "http://elsewhere.example"}),
        ({}, {"host": f"rebound.example:{PORT}"}),
    ):
        assert client.post(path, json=GOOD, params=query, headers=headers).status_code == 403
    assert (words, hashes(Path(), ".")) == ([], before)


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (GOOD | {"name": "../cup"}, "name '../cup': use lower-case"),
        (GOOD | {"name": ".."}, "name '..': use lower-case"),
        (GOOD | {"name": "--yes"}, "name '--yes': use lower-case"),
        (GOOD | {"name": "objects/cup"}, "name 'objects/cup': use lower-case"),
        (GOOD | {"name": "Cup\n"}, r"name 'Cup\n': use lower-case"),
        (GOOD | {"name": "c" * 41}, "at most 40"),
        (GOOD | {"noun": "cup\u202e"}, "noun: contains the invisible character U+202E"),
        (GOOD | {"noun": 3}, "noun: Input should be a valid string"),
        (GOOD | {"to": "/etc"}, "unknown key 'to'"),
        (GOOD | {"files": []}, "0 files: choose 1 to 500"),
        (names(*map(str, range(501))), "501 files: choose 1 to 500"),
        (GOOD | {"files": [{"name": "1.jpg", "size": (1 << 20) + 1}]}, "1.jpg: 1.0 MB, over prepare.max_megabytes: 1"),
        (GOOD | {"files": [{"name": "1.jpg", "size": -1}]}, "files.0.size: "),
        (GOOD | {"noun": "mug"} | {"files": [{"name": "concept.yaml", "size": 1}]}, "concept.yaml: is among the files"),
        (names("1.jpg", "1.jpg"), "1.jpg: was chosen twice"),
        (names("a", "a/b.jpg"), "a: is a file and the folder of a/b.jpg"),
        *((names(name), f"{name[:255]!a}: no file may have this name") for name in (
            "../1.jpg", "/etc/passwd", "a/../../1.jpg", "a//1.jpg", "", ".", "a/.", "a\\..\\1.jpg", "1\n.jpg", "\0",
            "1\u2028.jpg", "/".join("abcdefghi"), "x" * 256, "ü" * 128,
        )),
    ],
)  # fmt: skip
def test_what_cannot_be_added_is_refused_by_name_before_a_photo_is_read(client, form, monkeypatch, wanted, complaint):
    words = recorded(monkeypatch)
    answer = client.post("/draft", json=wanted)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(complaint) or complaint in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert form.draft is None
    assert not words
    assert not adding.PLACE.exists()


def test_all_photos_together_have_a_limit(client, monkeypatch):
    monkeypatch.setattr("flows.watching.upload.MOST_BYTES", 3)
    answer = client.post("/draft", json=names("1.jpg", "2.jpg", "3.jpg", "4.jpg"))
    assert "palimpsest concept add cup --photos FOLDER" in answer.json()["error"]


def test_a_draft_becomes_a_concept_in_three_steps(client, form, monkeypatch):
    def run(words):
        folder = Path(words[4])
        assert words[:4] == ("concept", "add", "cup", "--photos")
        assert hashes(folder, ".").keys() == {"1.jpg", "references/2.jpg", "concept.yaml"}
        assert (folder / "1.jpg").read_bytes() == PHOTO
        assert (folder / "references/2.jpg").read_bytes() == PHOTO[::-1]
        assert (folder / "concept.yaml").read_text("utf-8") == 'noun: "big \\"mug\\""\n'
        done.append(words[5:])
        return f"cup: 1 photo\n{folder}/1.jpg looks odd\nAdded cup.\nNext: palimpsest run"

    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(command, "_run", run)
    files = [{"name": name, "size": len(PHOTO)} for name in ("1.jpg", "references/2.jpg")]
    draft = client.post("/draft", json=GOOD | {"noun": 'big "mug"', "files": files}).json()
    assert "photos have not been sent" in client.post("/add", json=draft).json()["error"]
    for _ in range(2):  # the second one replaces the first
        answer = client.post("/photos", params=draft, content=PHOTO + PHOTO[::-1])
        assert answer.json()["line"].startswith("cup: 1 photo\n1.jpg looks odd\n")
    assert client.post("/add", json={"draft": "other"}).status_code == 400
    assert client.post("/add", json=draft).json() == {"line": "Added cup.\nNext: palimpsest run"}
    assert done == [("--plan",), ("--plan",), ("--yes", "--no-run")]
    assert client.post("/add", json=draft).status_code == 400, "it was added twice"
    assert [path.name for path in adding.PLACE.rglob("*") if path.is_file()] == ["lock"]
    form.close()
    assert not list(adding.PLACE.iterdir())


@pytest.mark.parametrize("sent", [b"", PHOTO[:-1], PHOTO + b"x"])
def test_another_number_of_bytes_than_named_is_refused_and_nothing_stays(client, monkeypatch, sent):
    words = recorded(monkeypatch)
    draft = client.post("/draft", json=GOOD).json()
    for content, headers in (
        (sent, {}),
        (iter([sent]), {}),
        (iter([sent]), {"content-length": str(len(PHOTO))}),
    ):
        answer = client.post("/photos", params=draft, content=content, headers=headers)
        assert "hoose" in answer.json()["error"], (content, headers)
    assert not words
    assert [path.name for path in adding.PLACE.rglob("*") if path.is_file()] == ["lock"]


def test_the_commands_error_names_photos_as_they_were_chosen(client, monkeypatch):
    def run(words):
        raise MachineFault(f"{words[4]}/1.jpg: damaged. Copy it again.\n{words[4]}: has no pictures.")

    monkeypatch.setattr(command, "_run", run)
    draft = client.post("/draft", json=GOOD).json()
    answer = client.post("/photos", params=draft, content=PHOTO)
    assert answer.json() == {"error": "1.jpg: damaged. Copy it again.\ncup: has no pictures."}


def test_while_a_study_runs_nothing_is_added(client):
    with lock(adding.LOCK):
        assert client.post("/draft", json=GOOD).json()["error"].startswith("a run is in progress (pid ")


def test_other_studies_have_no_form_but_the_reason(page, client, monkeypatch):
    assert '<form id="add">' in client.get("/").text
    two = page.params.model_copy(update={"domains": ("objects", "styles")})
    assert "domains are objects, styles" in adding.refusal(two)
    monkeypatch.setattr(adding, "own_photos", own_photos)
    reason = "params.yaml: dataset.name is toy, which takes no photos."
    assert adding.refusal(parameters()).startswith(reason)
    page.params = parameters()
    html = client.get("/").text
    assert reason in html
    assert '<form id="add">' not in html
    assert reason in client.post("/draft", json=GOOD).json()["error"]


def test_a_killed_server_leaves_nothing_for_long(page):
    """Only what another server, which runs, holds is not deleted."""
    killed = adding.PLACE / "killed"
    (killed / "key/cup").mkdir(parents=True)
    (killed / "key/cup/1.jpg").write_bytes(PHOTO)
    with lock(adding.PLACE / "running/lock"):
        adding.clear()
        assert [path.name for path in adding.PLACE.iterdir()] == ["running"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """params.yaml and photos of a study of two concepts, and photos of a third one."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/mug", "photos/toy", "new"):
        (tmp_path / "data" / name).mkdir(parents=True)
        picture(tmp_path / "data" / name / "1.jpg", len(name))
    PARAMS.write_text(new_project._params("own", ["mug", "toy"]))
    Path("runs/own/objects/0/data/02").mkdir(parents=True)
    Path("runs/own/objects/0/data/02/manifest.json").touch()
    return tmp_path


def picture(path: Path, seed: int) -> None:
    Image.effect_noise((48, 40), 30 + seed).convert("RGB").save(path)


NEW = Path("data/new")
CHANGES = {
    "add": lambda: concepts.Change(
        lambda text: edit_params.with_task(text, {"objects": "cup"}), "", {"objects": "cup"}, (NEW, "objects/cup")
    ),
    "redo": lambda: concepts.Change(lambda text: text, "", photos=(NEW, "objects/mug"), fresh=False),
    "remove": lambda: concepts.Change(lambda text: edit_params.without_concept(text, {"objects": "mug"}), ""),
}
STEPS = {
    "the record": (undo, "write_file"),
    "moving old photos": (undo.Reversible, "move_away"),
    "naming the folder": (undo.Reversible, "make"),
    "copying photos": (concepts, "copy_folder"),
    "writing params.yaml": (concepts, "write_file"),
    "moving prepared photos": (concepts, "_move_old_photos"),
    "asking": (console, "confirm"),
    "completing": (undo.Reversible, "complete"),
}


def killed(change: concepts.Change, step: tuple[object, str], after: bool) -> bool:
    """Makes a change in a process that kills itself before or after a step; returns whether it came to that."""
    owner, name = step
    if (child := os.fork()) == 0:
        actual = getattr(owner, name)

        def last(*given, **named):
            if after:
                actual(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, last)
        with change._changed():
            console.confirm("", True)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def state() -> dict[str, str]:
    files = hashes(Path(), ".")
    return {name: value for name, value in files.items() if not name.startswith(".cache/flow/lock")}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", CHANGES)
def test_a_killed_change_is_undone_by_the_next_command(project, kind, step, after, capsys):
    before, text = state(), PARAMS.read_text()
    came = killed(CHANGES[kind](), STEPS[step], after)
    assert came or step in ("moving old photos", "naming the folder", "copying photos"), "not killed"
    undo.undo_unfinished()
    said = capsys.readouterr().out
    if came and not (step == "completing" and after):
        assert state() == before
        assert ("was undone" in said) or (step == "the record" and not after)
    else:
        assert (state() == before, said) == (False, "")
        assert (PARAMS.read_text() == text) == (kind == "redo")
    assert not undo.RECORD.exists()
    assert not [
        path for path in project.rglob("*") if path.is_dir() and path.name.startswith(".") and path.name != ".cache"
    ]


def test_choosing_a_profile_undoes_a_killed_change_first_and_not_one_that_goes_on(project, capsys):
    shutil.copytree(PROJECT / profiles.FOLDER, profiles.FOLDER)
    assert killed(CHANGES["add"](), STEPS["asking"], False)
    assert Path("data/photos/cup").exists()
    with lock(undo.LOCK), pytest.raises(MachineFault):
        profile_use("quick", force=True, quiet=True)
    profile_use("quick", force=True, quiet=True)
    assert "was undone" in capsys.readouterr().out
    assert PARAMS.read_text() == profiles.text("quick")
    assert not Path("data/photos/cup").exists()
    assert not undo.RECORD.exists()


def test_a_killed_change_takes_back_no_edit_made_since(project, capsys):
    assert killed(CHANGES["add"](), STEPS["asking"], False)
    PARAMS.write_text(edited := f"# mine\n{PARAMS.read_text()}")
    before = hashes(project, "data")
    undo.undo_unfinished()
    assert (PARAMS.read_text(), hashes(project, "data")) == (edited, before)
    assert capsys.readouterr().out == f"{undo.STAYS}\n"
    undo.undo_unfinished()
    assert not capsys.readouterr().out


def test_a_declined_change_takes_back_no_edit_made_while_it_asked(project, monkeypatch):
    monkeypatch.setattr("stages.core.params.load", lambda: None)

    def edit_and_decline() -> None:
        with CHANGES["add"]()._changed():
            PARAMS.write_text(f"# mine\n{PARAMS.read_text()}")
            raise concepts.Declined

    with pytest.raises(ConfigFault, match="was edited while"):
        edit_and_decline()
    assert PARAMS.read_text().startswith("# mine\n")
    assert Path("data/photos/cup/1.jpg").exists()


def test_the_page_does_not_show_a_change_that_may_be_undone(page):
    page.parts()
    outline, edited = page.outline, page.edited
    undo.RECORD.parent.mkdir(parents=True)
    undo.RECORD.write_text("{}")
    PARAMS.touch()
    page.parts()
    assert (page.outline, page.edited) == (outline, edited)
    undo.RECORD.unlink()
    page.parts()
    assert page.edited > edited


def test_what_a_folder_holds_is_one_line_each(project):
    picture(NEW / "ü.jpg", 1)
    (NEW / "ü.txt").write_text("a {} here")
    (NEW / "references").mkdir()
    picture(NEW / "references/3.jpg", 3)
    for name in ("1_mask.png", ".DS_Store", "notes.md", "concept.yaml"):
        (NEW / name).write_text("noun: mug\n" if name == "concept.yaml" else "x")
    concept = Folder(root=str(NEW)).read(NEW, "cup")
    first, second = contents(NEW, concept)
    assert first == f"cup: 2 photos, 1 photo to compare with, 1 caption; in prompts: {concept.token} mug."
    assert second == "cup: skipped, as no photos, captions or concept.yaml: .DS_Store, 1_mask.png, notes.md."
    for number in range(20):
        (NEW / f"{number}.md").touch()
    assert second != (more := list(contents(NEW, concept))[1])
    assert more.endswith(" and 13 more.")


@pytest.mark.slow
def test_the_command_previews_what_it_then_adds(tmp_path, monkeypatch):
    """The command itself, in a project of own photos: the preview changes nothing, and Go computes nothing."""
    folder = with_dvc(workspace(tmp_path / "mine"))
    monkeypatch.chdir(folder)
    for name in ("mug", "toy"):
        (folder / "data/photos" / name).mkdir(parents=True)
        picture(folder / "data/photos" / name / "1.jpg", len(name))
    PARAMS.write_text(new_project._params("own", ["mug", "toy"]))
    page = LivePage(load)
    with closing(Adding(page)) as form:
        client = TestClient(server.application(page, form, TOKEN, PORT), base_url=ADDRESS)
        client.headers["origin"], client.params = ADDRESS, {"token": TOKEN}
        picture(tmp_path / "1.jpg", 9)
        photo = (tmp_path / "1.jpg").read_bytes()
        before = hashes(folder, "data", "runs") | {"params": PARAMS.read_text()}

        def send(*contents: bytes) -> tuple[dict, dict]:
            files = [{"name": f"{number}.jpg", "size": len(content)} for number, content in enumerate(contents, 1)]
            draft = client.post("/draft", json=GOOD | {"noun": "mug", "files": files}).json()
            return draft, client.post("/photos", params=draft, content=b"".join(contents)).json()

        assert send(photo, b"no photo")[1]["error"].startswith("2.jpg: not a JPEG")
        draft, preview = send(photo, photo)
        lines = preview["line"].splitlines()
        assert lines[0] == "cup: 2.jpg: the same file as 1.jpg"
        assert any(line.startswith("cup: 2 photos; in prompts: ") for line in lines)
        assert ["03", "cup", "new"] in [line.split() for line in lines]
        assert "stages to update" in lines[-2]
        assert lines[-1] == "Nothing was changed."
        assert before == hashes(folder, "data", "runs") | {"params": PARAMS.read_text()}
        assert client.post("/add", json=draft).json() == {"line": "Added cup.\nNext: palimpsest run"}
    assert hashes(folder, "data/photos/cup").keys() == {
        f"data/photos/cup/{n}" for n in ("1.jpg", "2.jpg", "concept.yaml")
    }
    assert load().sequence("objects", "0")["03"] == "cup"
    assert not Path("runs").exists()
    assert not list(adding.PLACE.iterdir())
