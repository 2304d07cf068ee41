"""Weights from a hub: a real client against a server on this machine that answers as a hub does."""

import hashlib
import io
import json
import pickle
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save

from stages.files import model_lock
from stages.runtime.faults import ConfigFault, InputFault, MachineFault
from stages.tools import fetch as command
from stages.tools.exchange import download

COMMIT = "5a" * 20
WEIGHTS = save({"weight": torch.arange(600.0)})
FILES = {"config.json": b'{"a": 1}', "unet/model.safetensors": WEIGHTS}
LOCK = """
tiny:
  repo: somebody/tiny
  revision: {revision}
  licence: CC0
  files:
    config.json: {config}
    unet/model.safetensors: {weights}
"""


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as its client asks for: the commit of a repository, and files at a commit."""

    files: ClassVar[dict[str, bytes]]
    cut: int | None = None  # after so many bytes the connection breaks
    asked = 0

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body: bool):
        type(self).asked += 1
        if self.path.startswith("/api/models/somebody/tiny"):
            return self.say(json.dumps({"id": "somebody/tiny", "sha": COMMIT}).encode(), body)
        name = self.path.split(f"/somebody/tiny/resolve/{COMMIT}/")[-1]
        if name not in self.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self.say(self.files[name], body)

    def say(self, content: bytes, body: bool):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content[: self.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A workspace with a lock, and a hub that has its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 1, raising=False)
    Path("data").mkdir()
    kind = type("Hub", (Hub,), {"files": dict(FILES), "cut": None, "asked": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind.url = f"http://127.0.0.1:{server.server_port}"
    yield kind
    server.shutdown()
    server.server_close()


def lock(revision: str | None = COMMIT, **pins: str) -> None:
    known = {
        key: f"{{size: {len(FILES[name])}, sha256: {hashlib.sha256(FILES[name]).hexdigest()}}}"
        for key, name in (("config", "config.json"), ("weights", "unet/model.safetensors"))
    }
    Path("data/models.yaml").write_text(LOCK.format(revision=revision or "", **known | pins))


def fetch(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fetch", *words])
        return command.main()


def test_files_come_at_the_pinned_commit_and_are_not_asked_for_again(served, capsys):
    lock()
    assert fetch("tiny", "--hub", served.url) == 0
    assert {p.relative_to("data/models/tiny").as_posix(): p.read_bytes() for p in here()} == FILES
    assert "sha256" not in capsys.readouterr().err
    served.asked = 0
    assert fetch("tiny", "--hub", "http://127.0.0.1:9") == 0  # nothing listens there: from now on it works offline
    assert served.asked == 0
    assert not list(Path("data/models").glob(".*"))  # nothing is left over


def here() -> list[Path]:
    return [p for p in Path("data/models/tiny").rglob("*") if p.is_file()]


def test_what_is_not_known_is_taken_once_and_compared_from_then_on(served):
    lock(None, config="{}", weights="{}")
    assert fetch("tiny", "--hub", served.url) == 2
    assert not here()
    assert fetch("tiny", "--hub", served.url, "--pin") == 0
    found = model_lock.read_lock()["tiny"]
    assert found.revision == COMMIT
    assert found.files["unet/model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    Path("data/models/tiny/config.json").unlink()
    served.files["config.json"] = b'{"a": 2}'
    assert fetch("tiny", "--hub", served.url) == 3


def test_the_revision_is_that_of_the_folder(served, capsys):
    from stages.files.artifact import folder_digest

    lock()
    assert fetch("tiny", "--hub", served.url) == 0
    assert folder_digest(Path("data/models/tiny")) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WEIGHTS[:-8], "has 2464 bytes, .* pins 2472"),
        (b"\1" + WEIGHTS[1:], "its sha256 is"),
        (pickle.dumps({"weight": 1}), "is a pickle"),
    ],
)
def test_another_file_than_the_pinned_one_is_thrown_away(served, capsys, content, said):
    lock()
    served.files["unet/model.safetensors"] = content
    assert fetch("tiny", "--hub", served.url) == 3
    error = capsys.readouterr().err
    assert "\n" not in error.strip().splitlines()[-1]
    assert re.search(said, error)
    assert [p.name for p in here()] == ["config.json"]
    served.files["unet/model.safetensors"] = WEIGHTS
    assert fetch("tiny", "--hub", served.url) == 0  # and the next time it is the right one


def torch_pickle() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [(torch_pickle(), "is a pickle"), (WEIGHTS[:-8], "cannot be read"), (b"{", "is a pickle|cannot")],
)
def test_even_on_trust_no_pickle_and_nothing_cut_short_is_taken(served, content, said):
    lock(None, weights="{}")
    served.files["unet/model.safetensors"] = content
    model = model_lock.read_lock()["tiny"].model_copy(update={"revision": COMMIT})
    with pytest.raises(InputFault, match=said):
        download.fetch("tiny", model, download.from_hub(model, served.url))


def test_a_connection_that_breaks_is_a_fault_of_the_machine(served):
    lock()
    served.cut = 1000
    model = model_lock.read_lock()["tiny"]
    with pytest.raises(MachineFault, match=r"unet/model\.safetensors: cannot be fetched"):
        download.fetch("tiny", model, download.from_hub(model, served.url))
    served.cut = None
    download.fetch("tiny", model, download.from_hub(model, served.url))
    assert len(here()) == 2


def test_a_file_that_the_hub_does_not_have_is_named(served):
    lock()
    del served.files["config.json"]
    model = model_lock.read_lock()["tiny"]
    with pytest.raises(InputFault, match=r"somebody/tiny/config\.json: the hub has no such file"):
        download.fetch("tiny", model, download.from_hub(model, served.url))


def test_a_file_that_was_damaged_here_is_fetched_again(served):
    lock()
    assert fetch("tiny", "--hub", served.url) == 0
    Path("data/models/tiny/unet/model.safetensors").write_bytes(WEIGHTS[:-4] + b"damn")
    assert fetch("tiny", "--hub", served.url) == 0
    assert Path("data/models/tiny/unet/model.safetensors").read_bytes() == WEIGHTS


def test_a_folder_will_do_instead_of_a_hub(served):
    lock()
    for name, content in FILES.items():
        Path("brought", name).parent.mkdir(parents=True, exist_ok=True)
        Path("brought", name).write_bytes(content)
    assert fetch("tiny", "--from", "brought") == 0
    assert len(here()) == 2
    assert served.asked == 0
    Path("data/models/tiny/config.json").unlink()
    Path("brought/config.json").unlink()
    assert fetch("tiny", "--from", "brought") == 3


@pytest.mark.parametrize("name", ["model.bin", "../model.json", "/etc/model.json", "model.pt", "code.py"])
def test_the_lock_names_nothing_that_could_run_or_lies_elsewhere(served, name):
    lock()
    Path("data/models.yaml").write_text(Path("data/models.yaml").read_text().replace("config.json", name))
    with pytest.raises(ConfigFault, match=r"data/models\.yaml:2: files: .* is not one of"):
        model_lock.read_lock()


def pickled(monkeypatch: pytest.MonkeyPatch, sha256: str) -> None:
    """The model's only file is made from a pickle: here by a converter that only takes its first byte away."""
    monkeypatch.setattr(
        "stages.tools.fetch.convert", lambda name, source, target: target.write_bytes(source.read_bytes()[1:])
    )
    Path("data/models.yaml").write_text(f"""
tiny:
  repo: somebody/tiny
  revision: {COMMIT}
  licence: CC0
  pickle: {{file: model.bin, sha256: {sha256}, converter: tiny}}
  files:
    model.safetensors: {{}}
""")


def test_what_is_published_as_a_pickle_is_compared_converted_pinned_and_thrown_away(served, monkeypatch):
    served.files["model.bin"] = b"\x80" + WEIGHTS
    pickled(monkeypatch, hashlib.sha256(served.files["model.bin"]).hexdigest())
    assert fetch("tiny", "--hub", served.url) == 0
    assert {p.name: p.read_bytes() for p in here()} == {"model.safetensors": WEIGHTS}
    assert not list(Path("data/models").glob(".*"))
    assert model_lock.read_lock()["tiny"].files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    served.asked = 0
    assert fetch("tiny", "--hub", served.url) == 0
    assert served.asked == 0
    monkeypatch.setattr(
        "stages.tools.fetch.convert", lambda name, source, target: target.write_bytes(WEIGHTS[:-1] + b"!")
    )
    here()[0].unlink()
    assert fetch("tiny", "--hub", served.url) == 3  # a converter that makes another file than the first time
    assert not here()


def test_another_pickle_than_the_pinned_one_is_not_opened(served, monkeypatch, capsys):
    served.files["model.bin"] = b"\x80" + WEIGHTS
    pickled(monkeypatch, "ab" * 32)
    monkeypatch.setattr("stages.tools.fetch.convert", lambda *words: pytest.fail("it was opened"))
    assert fetch("tiny", "--hub", served.url) == 3
    assert "model.bin: its sha256 is" in capsys.readouterr().err
    assert not here()
    assert not list(Path("data/models").glob(".*"))


def test_every_pickle_of_the_lock_has_its_converter():
    from importlib import import_module

    found = [model.pickle.converter for model in model_lock.read_lock().values() if model.pickle]
    assert found == ["dino", "csd"]
    for name in found:
        assert callable(import_module(f"stages.metrics.weights.convert.{name}").convert)
