"""Errors in DVC's files are reported by file, and dvc.lock stays as it is unless it is truncated itself."""

import errno
import shutil
import subprocess

import pytest
from dvc.exceptions import CacheLinkError

from flows.graph.dvc_errors import told
from flows.graph.lockfile import COPY, LOCKFILE, TORN, update
from flows.graph.remote import open_graph
from stages.runtime.faults import ConfigFault

ENTRY = {"cmd": "echo a", "outs": [{"path": "a", "hash": "md5", "md5": "d41d8cd98f00b204e9800998ecf8427e"}]}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of one stage, with a dvc.lock."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo a\n    outs:\n    - a\n")
    monkeypatch.chdir(tmp_path)
    update(tmp_path, {"a": ENTRY})
    return tmp_path


def write(name, text):
    return lambda root: (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())


MERGE = "schema: '2.0'\n<<<<<<< HEAD\nstages:\n  a:\n    cmd: x\n=======\nstages: {}\n>>>>>>> other\n"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (write(".dvc/config", "[core\n"), r"\.dvc/config: Invalid line .* at line 1\. Fix it"),
        (write(".dvc/config", "[core]\n    autostage = maybe\n"), r"\.dvc/config: expected true or false"),
        (write(".dvc/config.local", "[cor]\n    x = 1\n"), r"\.dvc/config\.local: extra keys not allowed"),
        (write(".dvc/config", b"\xff\xfe"), r"\.dvc/config: .*decode"),
        (write("dvc.yaml", "stages: [\n"), "^dvc.yaml: "),
        (write("dvc.yaml", "stages:\n  a:\n    cmdd: x\n"), r"^dvc\.yaml: extra keys not allowed .*cmdd"),
        (write("dvc.yaml", "stages:\n  a:\n    cmd: ${nothing}\n"), r"^dvc\.yaml: .*Could not find 'nothing'"),
        (write("photos.dvc", "outs: [\n"), r"^photos\.dvc: "),
        (write(".dvcignore", b"\xff\xfe\n"), r"^\.dvcignore: is not UTF-8"),
        (write(".git/config", "[core\n"), r"\.git/config: .*bad config"),
        (lambda root: shutil.rmtree(root / ".git"), r"\.git: .*not a git repository"),
        (lambda root: shutil.rmtree(root / ".dvc"), "is not a project, it has no folder .dvc"),
        (write(LOCKFILE, "schema: '3.0'\nstages: {}\n"), r"^dvc\.lock: invalid schema version"),
        (write(LOCKFILE, MERGE), r"^dvc\.lock: has the marks of a git merge"),
    ],
)
def test_every_error_names_its_file_and_the_lock_stays(root, harm, message):
    harm(root)
    lock = (root / LOCKFILE).read_bytes()
    with pytest.raises(ConfigFault, match=message) as caught:
        open_graph(root)
    assert "\n" not in str(caught.value)
    assert (root / LOCKFILE).read_bytes() == lock
    assert not (root / TORN).exists()


@pytest.mark.parametrize(
    "torn", ["", "schema: '2.0'\nstages:\n  a:\n    cm", "schema: '2.0'\nstages:\n  a:\n    cmd: [\n"]
)
@pytest.mark.parametrize("source", ["copy", "git", "nothing"])
def test_a_torn_lock_is_repaired_and_kept(root, torn, source):
    whole = (root / LOCKFILE).read_text()
    if source == "git":
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "add", "-f", LOCKFILE], cwd=root, check=True)
        subprocess.run(["git", *identity, "commit", "-qm", "lock"], cwd=root, check=True)
    if source != "copy":
        (root / COPY).unlink()
    (root / LOCKFILE).write_text(torn)
    open_graph(root).close()
    assert (root / TORN).read_text() == torn
    assert (root / LOCKFILE).read_text() == whole if source != "nothing" else not (root / LOCKFILE).exists()


def test_the_reason_of_the_system_is_told_and_no_colours_of_dvcs():
    limit = OSError(errno.EFBIG, "File too large", "/some/file")
    error = CacheLinkError(["/some/file"])
    assert told(error).startswith("No possible cache link types for '/some/file'. See <https://dvc.org/doc/")
    error.__context__ = RuntimeError()
    error.__context__.__cause__ = limit
    assert told(error) == "/some/file: File too large. Check its disk and its permissions."
