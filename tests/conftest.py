"""What several test files share."""

import pytest

from tests.workspace import dvc, hashes, ran, with_dvc, workspace


@pytest.fixture(scope="session")
def graph_done(tmp_path_factory):
    """A study as `dvc repro` runs it: its folder, which tests may go on with, what ran, and what came of it."""
    folder = with_dvc(workspace(tmp_path_factory.mktemp("graph") / "work"))
    return folder, ran(dvc(folder, "repro")), hashes(folder)
