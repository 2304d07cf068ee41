"""Downloading weights: the real client against a local server that answers like a hub."""

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
    """The part of a hub that its client needs: the commit of a repository, and files at a commit."""

    files: ClassVar[dict[str, bytes]]
    cut: int | None = None  # bytes after which the connection breaks
    requests = 0

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body: bool):
        type(self).requests += 1
        if self.path.startswith("/api/models/somebody/tiny"):
            return self.send(json.dumps({"id": "somebody/tiny", "sha": COMMIT}).encode(), body)
        name = self.path.split(f"/somebody/tiny/resolve/{COMMIT}/")[-1]
        if name not in self.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self.send(self.files[name], body)

    def send(self, content: bytes, body: bool):
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
def hub(tmp_path, monkeypatch):
    """A workspace, and a hub that has the model's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 1, raising=False)
    Path("data").mkdir()
    kind = type("Hub", (Hub,), {"files": dict(FILES), "cut": None, "requests": 0})
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


def test_files_are_fetched_at_the_pinned_commit_once(hub, capsys):
    lock()
    assert fetch("tiny", "--hub", hub.url) == 0
    assert {p.relative_to("data/models/tiny").as_posix(): p.read_bytes() for p in here()} == FILES
    assert "sha256" not in capsys.readouterr().err
    hub.requests = 0
    assert fetch("tiny", "--hub", "http://127.0.0.1:9") == 0  # nothing listens there: it now works offline
    assert hub.requests == 0
    assert not list(Path("data/models").glob(".*"))  # no partial files remain


def here() -> list[Path]:
    return [p for p in Path("data/models/tiny").rglob("*") if p.is_file()]


def test_an_unknown_hash_is_pinned_once_and_checked_from_then_on(hub):
    lock(None, config="{}", weights="{}")
    assert fetch("tiny", "--hub", hub.url) == 2
    assert not here()
    assert fetch("tiny", "--hub", hub.url, "--pin") == 0
    model = model_lock.read_lock()["tiny"]
    assert model.revision == COMMIT
    assert model.files["unet/model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    Path("data/models/tiny/config.json").unlink()
    hub.files["config.json"] = b'{"a": 2}'
    assert fetch("tiny", "--hub", hub.url) == 3


def test_the_revision_is_the_digest_of_the_folder(hub, capsys):
    from stages.files.artifact import folder_digest

    lock()
    assert fetch("tiny", "--hub", hub.url) == 0
    assert folder_digest(Path("data/models/tiny")) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WEIGHTS[:-8], "has 2464 bytes, .* pins 2472"),
        (b"\1" + WEIGHTS[1:], "its sha256 is"),
        (pickle.dumps({"weight": 1}), "is a pickle"),
    ],
)
def test_a_file_that_does_not_match_its_pin_is_deleted(hub, capsys, content, message):
    lock()
    hub.files["unet/model.safetensors"] = content
    assert fetch("tiny", "--hub", hub.url) == 3
    error = capsys.readouterr().err
    assert "\n" not in error.strip().splitlines()[-1]
    assert re.search(message, error)
    assert [p.name for p in here()] == ["config.json"]
    hub.files["unet/model.safetensors"] = WEIGHTS
    assert fetch("tiny", "--hub", hub.url) == 0  # the next download is accepted


def torch_pickle() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [(torch_pickle(), "is a pickle"), (WEIGHTS[:-8], "cannot be read"), (b"{", "is a pickle|cannot")],
)
def test_pickles_and_truncated_files_are_refused_even_without_a_pin(hub, content, message):
    lock(None, weights="{}")
    hub.files["unet/model.safetensors"] = content
    model = model_lock.read_lock()["tiny"].model_copy(update={"revision": COMMIT})
    with pytest.raises(InputFault, match=message):
        download.fetch_files("tiny", model, download.from_hub(model, hub.url))


def test_a_header_whose_length_looks_like_a_pickle_is_none(hub):
    """One safetensors file in 32 begins with the byte 0x80."""
    contents = (save({"weight": torch.zeros(3)}, {"note": "a" * length}) for length in range(300))
    hub.files["unet/model.safetensors"] = next(content for content in contents if content[:1] == b"\x80")
    lock(None, weights="{}")
    assert fetch("tiny", "--hub", hub.url, "--pin") == 0


@pytest.mark.parametrize(("content", "code"), [(b"\x08\x08\x12\x07\xff\xfe\x80", 0), (pickle.dumps({"weight": 1}), 3)])
def test_onnx_is_accepted_and_a_pickle_of_that_name_is_not(hub, content, code):
    lock(config=f"{{size: {len(content)}, sha256: {hashlib.sha256(content).hexdigest()}}}")
    path = Path("data/models.yaml")
    path.write_text(path.read_text().replace("config.json", "net.onnx"))
    hub.files["net.onnx"] = content
    assert fetch("tiny", "--hub", hub.url) == code


def test_a_broken_connection_is_a_machine_fault(hub):
    lock()
    hub.cut = 1000
    model = model_lock.read_lock()["tiny"]
    with pytest.raises(MachineFault, match=r"unet/model\.safetensors: download failed"):
        download.fetch_files("tiny", model, download.from_hub(model, hub.url))
    hub.cut = None
    download.fetch_files("tiny", model, download.from_hub(model, hub.url))
    assert len(here()) == 2


def test_a_file_missing_on_the_hub_is_named(hub):
    lock()
    del hub.files["config.json"]
    model = model_lock.read_lock()["tiny"]
    with pytest.raises(InputFault, match=r"somebody/tiny/config\.json: the hub has no such file"):
        download.fetch_files("tiny", model, download.from_hub(model, hub.url))


def test_a_damaged_local_file_is_downloaded_again(hub):
    lock()
    assert fetch("tiny", "--hub", hub.url) == 0
    Path("data/models/tiny/unet/model.safetensors").write_bytes(WEIGHTS[:-4] + b"damn")
    assert fetch("tiny", "--hub", hub.url) == 0
    assert Path("data/models/tiny/unet/model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("words", [["--from", "local"], ["--pin"]])
def test_what_names_no_model_and_would_be_ignored_is_refused(hub, capsys, words):
    lock()
    assert fetch(*words) == 2
    assert capsys.readouterr().err == f"error: {' '.join(words)}: name a model, or give --for PROFILE.\n"


def test_files_can_come_from_a_folder(hub):
    lock()
    for name, content in FILES.items():
        Path("local", name).parent.mkdir(parents=True, exist_ok=True)
        Path("local", name).write_bytes(content)
    assert fetch("tiny", "--from", "local") == 0
    assert len(here()) == 2
    assert hub.requests == 0
    Path("data/models/tiny/config.json").unlink()
    Path("local/config.json").unlink()
    assert fetch("tiny", "--from", "local") == 3


@pytest.mark.parametrize("name", ["model.bin", "../model.json", "/etc/model.json", "model.pt", "code.py"])
def test_the_lock_refuses_executable_formats_and_paths_outside_the_folder(hub, name):
    lock()
    Path("data/models.yaml").write_text(Path("data/models.yaml").read_text().replace("config.json", name))
    with pytest.raises(
        ConfigFault, match=r"data/models\.yaml:2: files: .* must be a \.safetensors, \.onnx, \.json, \.txt file inside"
    ):
        model_lock.read_lock()


def pickled(monkeypatch: pytest.MonkeyPatch, sha256: str) -> None:
    """Pins a model that is converted from a pickle, with a converter that only drops the first byte."""
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


def test_a_published_pickle_is_checked_converted_pinned_and_deleted(hub, monkeypatch):
    hub.files["model.bin"] = b"\x80" + WEIGHTS
    pickled(monkeypatch, hashlib.sha256(hub.files["model.bin"]).hexdigest())
    assert fetch("tiny", "--hub", hub.url) == 0
    assert {p.name: p.read_bytes() for p in here()} == {"model.safetensors": WEIGHTS}
    assert not list(Path("data/models").glob(".*"))
    assert model_lock.read_lock()["tiny"].files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    hub.requests = 0
    assert fetch("tiny", "--hub", hub.url) == 0
    assert hub.requests == 0
    monkeypatch.setattr(
        "stages.tools.fetch.convert", lambda name, source, target: target.write_bytes(WEIGHTS[:-1] + b"!")
    )
    here()[0].unlink()
    assert fetch("tiny", "--hub", hub.url) == 3  # a converter that writes a different file than the first time
    assert not here()


def test_a_pickle_that_does_not_match_its_pin_is_not_opened(hub, monkeypatch, capsys):
    hub.files["model.bin"] = b"\x80" + WEIGHTS
    pickled(monkeypatch, "ab" * 32)
    monkeypatch.setattr("stages.tools.fetch.convert", lambda *words: pytest.fail("it was opened"))
    assert fetch("tiny", "--hub", hub.url) == 3
    assert "model.bin: its sha256 is" in capsys.readouterr().err
    assert not here()
    assert not list(Path("data/models").glob(".*"))


def test_every_pickle_in_the_lock_has_a_converter():
    from importlib import import_module

    converters = [model.pickle.converter for model in model_lock.read_lock().values() if model.pickle]
    assert converters == ["dino", "csd"]
    for name in converters:
        assert callable(import_module(f"stages.metrics.weights.convert.{name}").convert)
