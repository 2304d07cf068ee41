"""Files that file managers, sync clients and editors leave in outputs and inputs change nothing."""

from pathlib import Path

import pytest

from flows.graph.remote import open_graph
from stages.files import artifact
from stages.files.untrusted import FOREIGN, is_foreign
from tests.flows.graph.test_dvc_errors import root  # noqa: F401 - a fixture
from tests.support.workspace import PROJECT

LEFT = (
    ".DS_Store",
    "._a.png",
    "Thumbs.db",
    "desktop.ini",
    ".directory",
    "a.png~",
    ".a.png.swp",
    "@eaDir/a.png",
    ".~lock.a#",
)


def leave(folder: Path) -> None:
    for name in LEFT:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left behind")


def test_dvc_ignores_the_same_files_as_manifests():
    lines = (PROJECT / ".dvcignore").read_text("utf-8").splitlines()
    patterns = [
        line.removeprefix("\\") for line in lines[lines.index("# as FOREIGN in stages/files/untrusted.py") + 1 :]
    ]
    assert patterns == [pattern for pattern in FOREIGN if not pattern.endswith("\r")]
    assert all(is_foreign(name.split("/")[0]) for name in LEFT)


def test_a_published_folder_with_foreign_files_is_read_and_keeps_its_revision(tmp_path):
    with artifact.publish(tmp_path / "a", "data", {}) as draft:
        (draft / "sub").mkdir()
        (draft / "sub/x.png").write_text("x")
    facts, revision = artifact.read(tmp_path / "a", "data"), artifact.folder_digest(tmp_path / "a")
    leave(tmp_path / "a")
    leave(tmp_path / "a/sub")
    assert artifact.read(tmp_path / "a", "data") == facts
    assert artifact.folder_digest(tmp_path / "a") == revision
    (tmp_path / "a/sub/y.png").write_text("y")
    with pytest.raises(artifact.Damaged, match=r"y\.png: not in the manifest"):
        artifact.read(tmp_path / "a", "data")


def test_no_stage_runs_again_because_of_foreign_files(root):  # noqa: F811
    (root / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo a\n    deps:\n    - photos\n    outs:\n    - out\n")
    (root / ".dvcignore").write_bytes((PROJECT / ".dvcignore").read_bytes())
    (root / "photos").mkdir()
    (root / "photos/1.png").write_text("1")

    def run():
        (root / "out/sub").mkdir(parents=True)
        (root / "out/sub/x").write_text("x")

    graph = open_graph(root)
    assert graph.update_stage("a", run) == "ran"
    graph.write()
    graph.close()
    for folder in ("photos", "out", "out/sub"):
        leave(root / folder)
    graph = open_graph(root)
    assert graph.plan() == []
    graph.close()
    (root / "out/sub/y").write_text("y")
    graph = open_graph(root)
    assert graph.plan() == ["a"]
    assert graph.update_stage("a", lambda: pytest.fail("ran")) == "cached"
    graph.close()
    assert not (root / "out/sub/y").exists()
