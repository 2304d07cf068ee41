"""The live page: what it shows of an unfinished study, whom it answers, and that it writes only on request."""

import asyncio
import json
import os
import re
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest
import uvicorn
from ruamel.yaml import YAML
from starlette.testclient import TestClient

from flows.engine.journal import Journal
from flows.watching import command, connections, guard, server
from flows.watching.adding import Adding
from flows.watching.page import LivePage
from flows.watching.progress import Reader
from stages.core.runs import runs
from stages.monitoring.live_losses import LiveLosses
from stages.runtime.faults import ConfigFault
from stages.runtime.process import lock
from stages.tools import edit_params
from stages.training.loop import Losses
from tests.support.synthetic_study import parameters, write
from tests.support.workspace import hashes

EMPTY = 'fill="var(--wash)"'  # a cell of a matrix that is still to come
TOKEN, PORT = "the-token", 4242
LOCK = Path(".cache/flow/lock")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of three tasks and two strategies, whose stages can be deleted."""
    monkeypatch.chdir(tmp_path)
    params = parameters()
    write(params)
    tree = {"study": params.study, "domains": ["objects"], "orders": ["0"], "seeds": [0]}
    tree |= {"strategies": list(params.strategies), "tasks": [task.model_dump() for task in params.tasks]}
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(tree | {"sequences": params.sequences}, file)
    return params


def cells(html: str) -> int:
    """The cells of a matrix that have a number, from the table beside the chart."""
    return len(re.findall(r"<td>[\d.−-]+</td>", html))


def test_the_matrix_and_the_filmstrip_fill_up(study):
    run = next(run for run in runs(study) if run.strategy == "naive")
    finished = LivePage(lambda: study).parts()
    assert cells(finished["matrix-objects-naive"]) == 3 + 1 + 2 + 3  # the base on all tasks, then those learned
    assert finished["film-objects"].count("<img") == 2 * (2 * 3 + 3 + 2 + 1)  # photo and base in each row
    shutil.rmtree(run.at("03") / "scores")
    shutil.rmtree(run.at("03") / "images")
    page = LivePage(lambda: study)
    before = page.parts()
    assert cells(before["matrix-objects-naive"]) == 3 + 1 + 2
    assert cells(before["matrix-objects-merge_init"]) == 9
    assert before["matrix-objects-naive"].count(EMPTY) == 3
    assert EMPTY not in before["matrix-objects-merge_init"]
    assert before["film-objects"].count("<img") == finished["film-objects"].count("<img") - 3
    write(study)
    after = page.parts()
    changed = {name for name in after if after[name] != before[name]}
    assert {"matrix-objects-naive", "film-objects", "cost-objects"} <= changed
    assert after == finished


def test_before_anything_is_scored_the_page_says_so(study):
    for scores in Path("runs").rglob("scores"):
        shutil.rmtree(scores)
    parts = LivePage(lambda: study).parts()
    assert "Nothing has been scored" in parts["matrix-objects-naive"]
    assert "Nothing yet: this needs the scores after two tasks." in parts["cost-objects"]
    assert "No training of this study has begun" in parts["training"]


def test_what_the_last_concept_cost_is_the_difference_of_two_rows(study):
    reader, html = Reader(study), LivePage(lambda: study).parts()["cost-objects"]
    partial = reader.partial("objects")
    matrix = partial.matrices["naive"]
    was, now = float(matrix.at(2, 1)), float(matrix.at(3, 1))
    assert f"{was:.2f} → {now:.2f} ({now - was:+.2f})".replace("-", "−") in html
    assert partial.labels[2] in html
    assert partial.after("naive") == 3


def test_the_training_shows_its_losses(study):
    run = runs(study)[0]
    live = LiveLosses(study.study, run, "02", 40)
    live(25, Losses([1 / (1 + k) for k in range(25)], []))
    live(26, Losses([1 / (1 + k) for k in range(26)], []))  # within a second
    html = LivePage(lambda: study).parts()["training"]
    assert "step 25 of 40" in html
    assert "<svg" in html
    assert "watch: {previews_every: 40}" in html, "how to see pictures, too"
    live(40, Losses([1.0] * 40, []))
    assert "step 40 of 40" in LivePage(lambda: study).parts()["training"]


def test_the_progress_is_that_of_the_run(study):
    page = LivePage(lambda: study)

    def lead() -> str:
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.parts()["progress"])).strip()

    journal = Journal.begin(40)
    journal.note(10, "task 01 / train", "2 to 4 minutes")
    journal._written = 0.0
    with lock(LOCK):
        journal.tick({"objects / naive / task 02 / train": [120, 300, 9], "report": [0, 0, 3]})
        assert lead().startswith("10 of 40 stages, 2 to 4 minutes left")
        assert "task 02 / train: 120 of 300" in lead()
        assert "report: 3 s" in lead()
    assert lead().startswith("Stopped after 10 of 40 stages")  # killed
    journal.end(3, [{"stage": "objects / task 02 / train", "what": "training diverged"}])
    assert "The last run ended with exit code 3. Continue: palimpsest run" in lead()
    assert "objects / task 02 / train: training diverged" in lead()
    journal.end(75, [])
    assert lead().startswith("Stopped after 10 of 40 stages")  # on request
    assert "Everything finished is saved. Continue: palimpsest run" in lead()


def test_params_yaml_is_read_again_only_when_it_has_changed(study, monkeypatch):
    reads = []
    page = LivePage(lambda: reads.append(1) or study)
    tree = edit_params.tree
    monkeypatch.setattr(edit_params, "tree", lambda: reads.append(2) or tree())
    page.parts()
    page.whole(TOKEN, "")
    assert reads == [1]
    Path("params.yaml").touch()
    page.parts()
    assert reads == [1, 1, 2]


def test_only_the_printed_address_is_answered(study):
    page = LivePage(lambda: study)
    client = TestClient(server.application(page, Adding(page), TOKEN, PORT), base_url=f"http://127.0.0.1:{PORT}")
    page = client.get("/", params={"token": TOKEN})
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href)=["']https?:""", page.text)
    for path in ("/", "/events"):
        for query, headers in (
            ({}, {}),
            ({"token": "other"}, {}),
            ({"token": TOKEN}, {"origin": "http://elsewhere.example"}),
            ({"token": TOKEN}, {"host": f"rebound.example:{PORT}"}),
            ({"token": TOKEN}, {"sec-fetch-site": "cross-site"}),
        ):
            assert client.get(path, params=query, headers=headers).status_code == 403, (path, query, headers)
        assert client.post(path, params={"token": TOKEN}).status_code == 405
    assert client.get("/runs", params={"token": TOKEN}).status_code == 404


def answer_to(port: int, user: int | None = None) -> bytes:
    """The first line that the server on a port answers to a program of this user, which has the token."""
    if user is not None:
        os.seteuid(user)
    try:
        connection = socket.create_connection(("127.0.0.1", port))
    finally:
        os.seteuid(os.getuid())
    with connection:
        connection.sendall(f"GET /?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        return connection.makefile("rb").readline()


@pytest.mark.skipif(not connections.TABLE.exists(), reason="this system does not tell whose a connection is")
def test_only_the_user_who_started_it_is_answered(study, monkeypatch):
    page = LivePage(lambda: study)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server_of_page = uvicorn.Server(
            uvicorn.Config(server.application(page, Adding(page), TOKEN, port), log_level="error")
        )
        thread = threading.Thread(target=server_of_page.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert b"200" in answer_to(port)
            if os.getuid() == 0:
                assert b"403" in answer_to(port, user=65534)
            monkeypatch.setattr(guard, "user_at", lambda own, other: os.getuid() + 1)
            assert b"403" in answer_to(port)
        finally:
            server_of_page.should_exit = True
            thread.join()


@pytest.mark.skipif(not connections.TABLE.exists(), reason="this system does not tell whose a connection is")
def test_a_connection_is_that_of_the_program_that_holds_it():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = listener.getsockname()
        assert connections.user_at(here, connections.ANYONE) == os.getuid()
        with socket.create_connection(here) as client:
            at = client.getsockname()
            assert connections.user_at(at, here) == os.getuid()
            assert connections.user_at(at, ("127.0.0.1", here[1] + 1)) is None
        assert connections.user_at(at, here) is None


def test_events_send_each_part_once_and_again_when_it_changes(study, monkeypatch):
    monkeypatch.setattr(server, "EVERY_SECONDS", 0.01)

    class Request:
        looks = 0

        async def is_disconnected(self) -> bool:
            self.looks += 1
            if self.looks == 3:
                write(parameters())
                Path("params.yaml").touch()
            return self.looks > 6

    async def read() -> list[str]:
        return [event async for event in server._events(server.Feed(LivePage(lambda: study)), Request())]

    events = asyncio.run(read())
    parts = [json.loads(event.split("data: ", 1)[1])["id"] for event in events if event.startswith("event: part")]
    assert sorted(parts) == sorted(LivePage(lambda: study).parts())
    assert sum(event.startswith("event: outline") for event in events) == 1


def test_a_study_that_cannot_be_read_is_named_until_it_can(study, monkeypatch):
    """As while params.yaml is edited: the page shows what it last read, and says so."""
    monkeypatch.setattr(server, "EVERY_SECONDS", 0.01)
    page, looks = LivePage(lambda: study), []

    class Request:
        async def is_disconnected(self) -> bool:
            looks.append(1)
            monkeypatch.setattr(page, "_load", broken if len(looks) in (2, 3) else lambda: study)
            Path("params.yaml").touch()
            return len(looks) > 5

    def broken():
        raise ConfigFault("params.yaml:7: train.rank: must be\n at least 1.")

    async def read() -> list[str]:
        return [event async for event in server._events(server.Feed(page), Request())]

    faults = [event for event in asyncio.run(read()) if event.startswith("event: fault")]
    assert faults == [
        'event: fault\ndata: "params.yaml:7: train.rank: must be\\n at least 1."\n\n', 'event: fault\ndata: ""\n\n',
    ]  # fmt: skip


def test_the_page_writes_nothing(study):
    before = hashes(Path(), ".")
    page, client = LivePage(lambda: study), visitor(study)
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    page.parts()
    assert hashes(Path(), ".") == before


def visitor(study) -> TestClient:
    """The page, as its own script asks it: with the token and the origin."""
    address = f"http://127.0.0.1:{PORT}"
    page = LivePage(lambda: study)
    page.parts()
    client = TestClient(
        server.application(page, Adding(page), TOKEN, PORT), base_url=address, headers={"origin": address}
    )
    client.params = {"token": TOKEN}
    return client


def test_what_is_asked_for_must_come_from_the_page_itself(study, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "_run", lambda words: asked.append(words) or "")
    client, content = visitor(study), {"run": "objects/0/naive/0", "task": "02"}
    assert client.get("/export").status_code == 405
    for query, headers in (
        ({"token": ""}, {}),
        ({"token": "other"}, {}),
        ({}, {"origin": ""}),
        ({}, {"origin": "null"}),  # of a form, a sandboxed frame or a redirect
        ({}, {"origin": "http://elsewhere.example"}),
        ({}, {"origin": f"https://127.0.0.1:{PORT}"}),
        ({}, {"origin": f"http://127.0.0.1:{PORT + 1}"}),
        ({}, {"origin": f"http://localhost:{PORT}"}),  # another origin than the host asked
        ({}, {"host": f"rebound.example:{PORT}", "origin": f"http://rebound.example:{PORT}"}),
        ({}, {"sec-fetch-site": "same-site"}),
    ):
        answer = client.post("/export", json=content, params=query, headers=headers)
        assert answer.status_code == 403, (query, headers)
    del client.headers["origin"]
    assert client.post("/export", json=content).status_code == 403
    assert not asked


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not JSON"),
        (b"[1]", "valid dictionary"),
        (b'{"run": "objects/0/naive/0"}', "'task' is missing"),
        (b'{"run": "objects/0/naive/0", "task": 2}', "task: Input should be a valid string"),
        (b'{"run": "objects/0/naive/0", "task": "02", "to": "/etc/x"}', "unknown key 'to'"),
        (b'{"run": "objects/0/naive/0", "task": "\\ud800"}', "is not finished"),
        (b'{"run": "objects/0/naive/0", "run": "", "task": "02"}', "occurs twice"),
        (b'{"run": "objects/0/naive/0", "task": "04"}', "is not finished"),
        (b'{"run": "--help", "task": "02"}', "is not finished"),
        (b'{"run": "../../etc", "task": "02"}', "is not finished"),
        (b"[" * 60_000, "too many nested levels"),
        (b" " * 70_000, "more than 65536 bytes"),
    ],
    ids=range(12),
)  # fmt: skip
def test_only_finished_tasks_of_the_study_are_exported(study, monkeypatch, content, complaint):
    monkeypatch.setattr(command, "_run", lambda words: pytest.fail(f"ran {words}"))
    answer = visitor(study).post("/export", content=content)
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_without_its_length_is_read_up_to_the_limit_only(study):
    sent = []

    def endless():
        while len(sent) < 100:
            sent.append(1)
            yield b" " * (1 << 15)

    assert "more than" in visitor(study).post("/export", content=endless()).json()["error"]
    answer = visitor(study).post("/export", content=b"{}", headers={"content-length": "9" * 20})
    assert "more than" in answer.json()["error"]


def test_an_export_is_the_commands_and_its_file_a_download(study, monkeypatch):
    def export(words):
        assert words[:4] == ("export", "objects/0/naive/0", "--task", "02")
        Path(words[-1]).parent.mkdir()
        Path(words[-1]).write_bytes(b"weights")
        return "the line of the command"

    client = visitor(study)
    monkeypatch.setattr(command, "_run", export)
    name = "small-objects-0-naive-0-02.safetensors"
    assert client.get("/exported", params={"name": name}).status_code == 400  # not exported here
    answer = client.post("/export", json={"run": "objects/0/naive/0", "task": "02"}).json()
    assert answer == {"line": "the line of the command", "file": name}
    file = client.get("/exported", params={"name": name})
    assert (file.content, file.headers["content-disposition"]) == (b"weights", f'attachment; filename="{name}"')
    for other in ("../params.yaml", "params.yaml", "", f"../exports/{name}"):
        assert "has exported no such file" in client.get("/exported", params={"name": other}).json()["error"]
    (Path("exports") / name).unlink()
    assert "was deleted" in client.get("/exported", params={"name": name}).json()["error"]


def test_the_panel_offers_the_finished_tasks(study):
    run = next(run for run in runs(study) if run.strategy == "naive")
    (run.at("03") / "scores" / "manifest.json").unlink()
    parts = LivePage(lambda: study).parts()
    assert re.findall(r'<option value="(\d+)"', parts["export-objects-naive"]) == ["01", "02"]
    assert re.findall(r'<option value="(\d+)" selected', parts["export-objects-merge_init"]) == ["03"]
    shutil.rmtree("runs/small/objects/0/naive")
    assert "<form" not in LivePage(lambda: study).parts()["export-objects-naive"]


def test_a_command_reports_its_own_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with pytest.raises(ConfigFault, match=r"^params\.yaml: missing, so this folder is no project"):
        command._run(("concept", "list"))
    assert command._run(("--version",)).startswith("palimpsest")
