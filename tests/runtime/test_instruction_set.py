"""The same bytes under every instruction set of this processor; others: tests.bench.instructions.emulated."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from stages.files import artifact
from stages.runtime import instruction_set
from stages.runtime.faults import ConfigFault
from stages.runtime.instruction_set import ANY, CLEARED, NATIVE, SETTINGS, VARIABLE, check, native, pin, supported
from tests.support.workspace import ONE_METRIC, environment, hashes, workspace

needs_avx2 = pytest.mark.skipif(not supported(), reason="not an x86-64 processor with AVX2")
LIBRARIES = """
import stages, json, numpy, torch
with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
    torch.ones(2, 2) @ torch.ones(2, 2)
found = numpy.__config__.show(mode="dicts")["SIMD Extensions"]["found"]
print(json.dumps([torch.backends.cpu.get_cpu_capability(), found]))
"""
CHAIN = "from stages.core.params import load; from tests.support.run_study import run_all; run_all(load())"
SHORT = {
    "train": {"steps": 2, "batch": 2, "learning_rate": 0.0005, "checkpoint_every": 2},
    "sample": {"steps": 2, "images": 1, "plain": 0, "guidance": 3.0},
    "score": ONE_METRIC,
}
# What other processors, users and tools set: the oldest kernels, and everything that this processor can do.
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"}
OLD |= {"NPY_DISABLE_CPU_FEATURES": "X86_V3", "MKL_CBWR": "SSE4_2"}
TRAINED = "runs/small/objects/0/merge_init/0/01/adapter"
NEW = dict.fromkeys((*SETTINGS, *CLEARED))


def run(code, given, **options):
    env = {name: value for name, value in (environment() | given).items() if value is not None}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_avx2
@pytest.mark.parametrize("given", [OLD, NEW], ids=["old", "new"])
def test_every_library_takes_the_setting(given):
    verbose, _, found = run(LIBRARIES, given).partition("[")
    assert "CNR:COMPATIBLE" in verbose
    assert json.loads("[" + found) == ["AVX2", ["X86_V3"]]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Runs a short chain in a process of its own; its folder, and the sha256 of every file that it writes."""
    whole = workspace(tmp_path_factory.mktemp("whole") / "work", 1, **SHORT)
    shutil.copytree("tests/support", whole / "tests/support")
    shutil.copy("tests/__init__.py", whole / "tests")

    def chain(name, given):
        folder = shutil.copytree(whole, whole.parent / name)
        run(CHAIN, given, cwd=folder)
        return folder, hashes(folder, "runs")

    return chain


@pytest.mark.slow
@needs_avx2
def test_a_chain_gives_the_same_bytes_whatever_the_environment_says(chain):
    (folder, old), (_, new) = chain("old", OLD), chain("new", NEW)
    assert len(new) > 20
    assert old == new
    assert "instructions" not in artifact.read(folder / TRAINED, "adapter")


@pytest.mark.slow
@needs_avx2
def test_without_the_settings_the_bytes_differ_and_the_manifests_say_so(chain):
    """Otherwise the test above would test nothing."""
    (old_folder, old), (new_folder, new) = (
        chain(f"native {len(given)}", NEW | given | {VARIABLE: NATIVE}) for given in (OLD, {})
    )
    assert "adapter.safetensors" in {name.rpartition("/")[2] for name, _ in old.items() ^ new.items()}
    for folder in (old_folder, new_folder):
        assert artifact.read(folder / TRAINED, "adapter")["instructions"] == "native"


def test_native_results_are_recorded_and_others_are_not(monkeypatch):
    monkeypatch.setattr(instruction_set, "supported", lambda: True)
    monkeypatch.setenv(VARIABLE, ANY)
    assert not native()
    assert instruction_set.provenance() == {}
    monkeypatch.setenv(VARIABLE, NATIVE)
    assert native()
    assert instruction_set.provenance() == {"instructions": "native"}


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [("x86_64", "fpu avx2 fma", True), ("x86_64", "fpu avx avx2", False), ("aarch64", "avx2 fma", False)],
)
def test_a_processor_needs_avx2_and_fma(monkeypatch, tmp_path, machine, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: avx2 fma\n")
    monkeypatch.setattr(instruction_set, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(instruction_set.platform, "machine", lambda: machine)
    assert supported() is (expected and sys.platform == "linux")
    monkeypatch.setattr(instruction_set, "CPUINFO", tmp_path / "missing")
    assert not supported()


@pytest.mark.parametrize("capable", [True, False])
def test_only_a_capable_processor_is_pinned(monkeypatch, capable):
    monkeypatch.setattr(instruction_set, "supported", lambda: capable)
    monkeypatch.setattr(instruction_set, "loaded_before", [])
    monkeypatch.setattr(instruction_set.sys, "modules", {})
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in (*SETTINGS, *CLEARED):
        monkeypatch.setenv(name, "other")
    pin()
    values = {name: os.environ.get(name) for name in (*SETTINGS, *CLEARED)}
    assert values == (SETTINGS | dict.fromkeys(CLEARED) if capable else dict.fromkeys(values, "other"))


def test_a_native_process_drops_what_its_parent_set(monkeypatch):
    monkeypatch.setattr(instruction_set, "supported", lambda: True)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(VARIABLE, NATIVE)
    pin()
    assert not SETTINGS.keys() & os.environ.keys()


def test_libraries_that_were_loaded_too_early_are_named(monkeypatch):
    monkeypatch.setattr(instruction_set, "supported", lambda: True)
    monkeypatch.setattr(instruction_set, "loaded_before", [])
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert check() == ""
    pin()
    assert check().startswith("numpy and torch loaded too early")


def test_an_unknown_value_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "avx512")
    with pytest.raises(ConfigFault, match="PALIMPSEST_INSTRUCTIONS: is 'avx512', but can only be any or native"):
        check()
