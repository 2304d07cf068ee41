import hashlib
from pathlib import Path

import pytest
import torch

from stages import convert
from stages.core import models


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["convert", *words])
    return convert.main()


def test_another_checkpoint_than_the_published_one_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "nowhere.bin") == 3
    torch.save({"model_state_dict": {}}, "other.bin")
    assert run(monkeypatch, "other.bin") == 3
    assert "other.bin: its sha256 is" in capsys.readouterr().err


def test_what_is_written_is_pinned_the_first_time_and_compared_from_then_on(tmp_path, monkeypatch):
    lock = models.LOCK.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    models.LOCK.parent.mkdir()
    models.LOCK.write_text(lock, "utf-8")
    Path("checkpoint.bin").write_bytes(b"published")
    content = [b"converted"]

    def made(source: Path, target: Path) -> str:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[0])
        return hashlib.sha256(content[0]).hexdigest()

    monkeypatch.setattr("stages.metrics.csd_checkpoint.convert", made)
    words = ("checkpoint.bin", "--sha256", hashlib.sha256(b"published").hexdigest())
    assert run(monkeypatch, *words) == 0
    pinned = models.read_lock()[convert.NAME].files[convert.FILE]
    assert (pinned.size, pinned.sha256) == (9, hashlib.sha256(b"converted").hexdigest())
    assert run(monkeypatch, *words) == 0
    content[0] = b"otherwise"
    assert run(monkeypatch, *words) == 3
    assert not (models.FOLDER / convert.NAME / convert.FILE).exists()
