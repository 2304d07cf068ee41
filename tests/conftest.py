"""Fixtures and hooks shared by test files."""

import gc
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

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
    """Runs the files that take longest first, so that none of them runs alone at the end."""
    seconds: Counter[Path] = Counter()
    for item in items:
        seconds[item.path] += bool(item.get_closest_marker("slow"))
    for item in items:
        if known := item.get_closest_marker("takes"):
            seconds[item.path] = known.args[0]
    items.sort(key=lambda item: -seconds[item.path])


def pytest_collection_finish() -> None:
    """Imported modules and collected tests stay: the garbage collector need not look at them again."""
    gc.freeze()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, request):
    """A function that makes a folder which all test processes share: the first one makes it. Nobody may change it.

    Args:
        name: of the folder.
        make: fills the folder at a path, and returns facts about it that JSON can hold.

    Returns:
        The folder and the facts.
    """
    base = tmp_path_factory.getbasetemp()
    place = base.parent if hasattr(request.config, "workerinput") else base

    def made_once(name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
        folder, notes = place / name, place / f"{name}.json"
        with lock(place / f"{name}.lock", wait=True):
            if not notes.exists():
                notes.write_text(json.dumps(make(folder)))
        return folder, json.loads(notes.read_text())

    return made_once


@pytest.fixture(scope="session")
def graph_done(made_once):
    """A study that the flow has run: its folder (copy it), the stages that ran, the outputs' hashes."""

    def make(folder: Path) -> tuple[list[str], dict[str, str]]:
        return sorted(ran(run_flow(small(folder)))), hashes(folder)

    folder, (names, made) = made_once("graph-done", make)
    return folder, set(names), made


@pytest.fixture
def study(graph_done, tmp_path):
    """A copy of the finished study for one test."""
    return shutil.copytree(graph_done[0], tmp_path / "study")


class Standin(NamedTuple):
    path: Path
    revision: str


@pytest.fixture(scope="session")
def standin(made_once) -> Standin:
    """An SDXL with random weights, a hundredth of the real size."""
    return Standin(*made_once("standin", write))


@pytest.fixture(scope="session")
def shallow_standin(made_once) -> Standin:
    """The same with one transformer block for each attention, 11 in place of 70: the same code in less time."""
    return Standin(*made_once("shallow-standin", _write_shallow))


def _write_shallow(folder: Path) -> str:
    import diffusers

    unet, depths = diffusers.UNet2DConditionModel, {"transformer_layers_per_block": (1, 1, 1)}
    with patch.object(diffusers, "UNet2DConditionModel", lambda **config: unet(**config | depths)):
        return write(folder)
