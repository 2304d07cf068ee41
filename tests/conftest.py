"""What several test files share."""

from pathlib import Path
from typing import NamedTuple

import pytest

from stages.families.random_sdxl import write
from tests.workspace import dvc, hashes, ran, with_dvc, workspace


@pytest.fixture(scope="session")
def graph_done(tmp_path_factory):
    """A study as `dvc repro` runs it: its folder, which tests may go on with, what ran, and what came of it."""
    folder = with_dvc(workspace(tmp_path_factory.mktemp("graph") / "work"))
    return folder, ran(dvc(folder, "repro")), hashes(folder)


class Standin(NamedTuple):
    path: Path
    revision: str


@pytest.fixture(scope="session")
def standin(tmp_path_factory) -> Standin:
    """An SDXL of random weights, a hundredth of the real one; nothing may write into it."""
    path = tmp_path_factory.mktemp("standin") / "sdxl"
    return Standin(path, write(path))
