"""A project that is moved, also with outputs that are links into its cache, has nothing to compute again."""

import pytest

from flows.graph.remote import open_graph
from tests.flows.graph.test_dvc_errors import root  # noqa: F401 - a fixture


@pytest.mark.parametrize("links", ["symlink", "hardlink", "copy"])
def test_a_moved_project_is_up_to_date_or_restored(root, tmp_path_factory, monkeypatch, links):  # noqa: F811
    (root / ".dvc/config").write_text(f"[core]\n    analytics = false\n[cache]\n    type = {links}\n")
    (root / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo a\n    deps:\n    - given\n    outs:\n    - a\n")
    (root / "given").write_text("given")

    def run():
        (root / "a").write_text("a result")

    graph = open_graph(root)
    assert graph.update_stage("a", run) == "ran"
    graph.write()
    graph.close()
    place = tmp_path_factory.mktemp("elsewhere") / "project"
    root.rename(place)
    monkeypatch.chdir(place)
    graph = open_graph(place)
    if graph.plan():
        assert graph.update_stage("a", lambda: pytest.fail("computed again")) == "cached"
    graph.close()
    assert (place / "a").read_text() == "a result"
