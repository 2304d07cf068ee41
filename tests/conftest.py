"""Fixtures and hooks shared by test files."""

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from stages.families.unet.random_weights import write
from stages.runtime.process import collect_rarely, lock
from tests.support.crash import ran, run_flow
from tests.support.workspace import hashes, small

# A loaded machine is slow, not wrong.
settings.register_profile("palimpsest", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("palimpsest")
CONFIG = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config) -> None:
    """Gives each test's flow one worker, since several tests run at a time; tests that need two set it themselves."""
    collect_rarely()
    os.environ.setdefault("PALIMPSEST_JOBS", "1")
    config.stash[CONFIG] = folder = tempfile.TemporaryDirectory(prefix="palimpsest-config-")
    os.environ["XDG_CONFIG_HOME"] = folder.name  # projects that tests make are not the user's


def pytest_unconfigure(config) -> None:
    config.stash[CONFIG].cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """Uses two workers more than cores: some tests mostly wait for servers and other processes."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items) -> None:
    """Runs files with many slow tests first, so that none of them runs alone at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def graph_done(tmp_path_factory, request):
    """A study that the flow has run: its folder (copy it, do not change it), the stages that ran, the outputs' hashes.

    Test processes share it: the first one runs it.
    """
    base = tmp_path_factory.getbasetemp()
    place = base.parent if hasattr(request.config, "workerinput") else base
    folder, notes = place / "graph-done", place / "graph-done.json"
    with lock(place / "graph-done.lock", wait=True):
        if not notes.exists():
            names = ran(run_flow(small(folder)))
            notes.write_text(json.dumps([sorted(names), hashes(folder)]))
    names, made = json.loads(notes.read_text())
    return folder, set(names), made


@pytest.fixture
def study(graph_done, tmp_path):
    """A copy of the finished study for one test."""
    return shutil.copytree(graph_done[0], tmp_path / "study")


class Standin(NamedTuple):
    path: Path
    revision: str


@pytest.fixture(scope="session")
def standin(tmp_path_factory) -> Standin:
    """An SDXL with random weights, a hundredth of the real size; tests must not write into it."""
    path = tmp_path_factory.mktemp("standin") / "sdxl"
    return Standin(path, write(path))
