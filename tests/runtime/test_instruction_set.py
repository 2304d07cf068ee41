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
from stages.runtime.instruction_set import (
    ANY,
    AVX2,
    BRANCHES,
    CLEARED,
    INTEL,
    NATIVE,
    VARIABLE,
    check,
    native,
    pin,
    provenance,
    settings,
    supported,
    vendor,
)
from tests.support.workspace import ONE_METRIC, environment, hashes, workspace

pytestmark = pytest.mark.takes(60)

needs_avx2 = pytest.mark.skipif(not supported(), reason="not an x86-64 processor with AVX2")
LIBRARIES = """
import stages, json, numpy, torch
with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
    torch.ones(2, 2) @ torch.ones(2, 2)
found = numpy.__config__.show(mode="dicts")["SIMD Extensions"]["found"]
print(json.dumps([torch.backends.cpu.get_cpu_capability(), found]))
"""
CHAIN = "from stages.core.params import load; from tests.support.run_study import run_all; run_all(load()%s)"
SHORT = {
    "train": {"steps": 2, "batch": 2, "learning_rate": 0.0005, "checkpoint_every": 2},
    "sample": {"steps": 2, "images": 1, "plain": 0, "guidance": 3.0},
    "score": ONE_METRIC,
}
# What other processors, users and tools set: the oldest kernels, and everything that this processor can do.
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"}
OLD |= {"NPY_DISABLE_CPU_FEATURES": "X86_V3", "MKL_CBWR": "SSE4_2"}
TRAINED = "runs/small/objects/0/merge_init/0/01/adapter"
NEW = dict.fromkeys((*settings(AVX2), *CLEARED))


def run(code, given, **options):
    env = {name: value for name, value in (environment() | given).items() if value is not None}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_avx2
@pytest.mark.parametrize("value", BRANCHES)
@pytest.mark.parametrize("given", [OLD, NEW], ids=["old", "new"])
def test_every_library_takes_the_setting(given, value):
    verbose, _, found = run(LIBRARIES, given | {VARIABLE: value}).partition("[")
    assert f"CNR:{BRANCHES[value]}" in verbose or (value == AVX2 and vendor() != INTEL)
    assert json.loads("[" + found) == ["AVX2", ["X86_V3"]]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Runs a short chain in a process of its own; its folder, and the sha256 of every file that it writes."""
    whole = workspace(tmp_path_factory.mktemp("whole") / "work", 1, **SHORT)
    shutil.copytree("tests/support", whole / "tests/support", ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy("tests/__init__.py", whole / "tests")

    def chain(name, given, options=""):
        folder = shutil.copytree(whole, whole.parent / name)
        run(CHAIN % options, given, cwd=folder)
        return folder, hashes(folder, "runs")

    return chain


@pytest.mark.slow
@needs_avx2
def test_a_chain_gives_the_same_bytes_whatever_the_environment_says(chain):
    """By default. The other value is set in the same way, and followed into every library by the test above."""
    (folder, old), (_, new) = (chain(f"chain {len(given)}", given | {VARIABLE: None}) for given in (OLD, NEW))
    assert len(new) > 20
    assert old == new
    facts = artifact.read(folder / TRAINED, "adapter")
    assert facts.get("instructions", AVX2).startswith(AVX2)


@pytest.mark.slow
@needs_avx2
def test_a_chain_of_the_oldest_kernels_says_so(chain):
    folder, _ = chain("any", OLD | {VARIABLE: ANY}, ", until='train'")
    assert artifact.read(folder / TRAINED, "adapter")["instructions"] == ANY


@pytest.mark.slow
@needs_avx2
def test_without_the_settings_the_bytes_differ_and_the_manifests_say_so(chain):
    """Otherwise the test above would test nothing."""
    (old_folder, old), (new_folder, new) = (
        chain(f"native {len(given)}", NEW | given | {VARIABLE: NATIVE}, ", until='train'") for given in (OLD, {})
    )
    assert "adapter.safetensors" in {name.rpartition("/")[2] for name, _ in old.items() ^ new.items()}
    for folder in (old_folder, new_folder):
        assert artifact.read(folder / TRAINED, "adapter")["instructions"] == "native"


@pytest.mark.parametrize(
    ("value", "made_by", "recorded"),
    [
        (AVX2, INTEL, {}),
        (AVX2, "AuthenticAMD", {"instructions": "avx2 of AuthenticAMD"}),
        (AVX2, "", {"instructions": "avx2 of an unknown vendor"}),
        (ANY, INTEL, {"instructions": "any"}),
        (ANY, "AuthenticAMD", {"instructions": "any"}),
        (NATIVE, INTEL, {"instructions": "native"}),
    ],
)
def test_manifests_say_whose_results_they_are(monkeypatch, value, made_by, recorded):
    monkeypatch.setattr(instruction_set, "supported", lambda: True)
    monkeypatch.setattr(instruction_set, "vendor", lambda: made_by)
    monkeypatch.setenv(VARIABLE, value)
    assert native() is (value == NATIVE)
    assert provenance() == recorded


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [("x86_64", "fpu avx2 fma", True), ("x86_64", "fpu avx avx2", False), ("aarch64", "avx2 fma", False)],
)
def test_a_processor_needs_avx2_and_fma(monkeypatch, tmp_path, machine, flags, expected):
    text = f"processor\t: 0\nvendor_id\t: {INTEL}\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: avx2 fma\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(instruction_set, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(instruction_set.platform, "machine", lambda: machine)
    assert supported() is expected
    assert vendor() == INTEL
    monkeypatch.setattr(instruction_set, "CPUINFO", tmp_path / "missing")
    assert not supported()
    assert not vendor()


@pytest.mark.parametrize("value", BRANCHES)
@pytest.mark.parametrize("capable", [True, False])
def test_only_a_capable_processor_is_pinned(monkeypatch, capable, value):
    monkeypatch.setattr(instruction_set, "supported", lambda: capable)
    monkeypatch.setattr(instruction_set, "loaded_before", [])
    monkeypatch.setattr(instruction_set.sys, "modules", {})
    monkeypatch.setenv(VARIABLE, value)
    for name in (*settings(value), *CLEARED):
        monkeypatch.setenv(name, "other")
    pin()
    values = {name: os.environ.get(name) for name in (*settings(value), *CLEARED)}
    assert values == (settings(value) | dict.fromkeys(CLEARED) if capable else dict.fromkeys(values, "other"))


@pytest.mark.parametrize("parent", BRANCHES)
@pytest.mark.parametrize("child", [*BRANCHES, NATIVE])
def test_a_process_replaces_or_drops_what_its_parent_set(monkeypatch, parent, child):
    monkeypatch.setattr(instruction_set, "supported", lambda: True)
    for name, value in settings(parent).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(VARIABLE, child)
    pin()
    left = {name: os.environ[name] for name in settings(parent) if name in os.environ}
    assert left == ({} if child == NATIVE else settings(child))


def test_libraries_that_were_loaded_too_early_are_named(monkeypatch):
    monkeypatch.setattr(instruction_set, "supported", lambda: True)
    monkeypatch.setattr(instruction_set, "loaded_before", [])
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("MKL_CBWR", "SSE4_2")
    assert check() == ""
    pin()
    assert check().startswith("numpy and torch loaded too early")


def test_an_unknown_value_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "avx512")
    with pytest.raises(ConfigFault, match="PALIMPSEST_INSTRUCTIONS: is 'avx512', but can only be avx2, any, native"):
        check()
