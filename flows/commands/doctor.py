"""Checks this machine for the current study: Python, libraries, GPU, memory, disk, weights, remote, Prefect."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from stages.files.yaml import PARAMS
from stages.runtime.faults import ConfigFault, Fault, InputFault, MachineFault, first_line, printable
from stages.runtime.formatting import size
from stages.runtime.process import cause_of, cores

MIN_DISK = 5e9  # bytes
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "dvc", "prefect")


@dataclass(frozen=True)
class Finding:
    """The result of one check: "ok", "note" or "wrong"; with an exit code if it is wrong."""

    what: str
    how: str
    message: str
    code: int = 0


def examine() -> Iterator[Finding]:
    """Runs all checks."""
    for what, check in CHECKS.items():
        try:
            for message in check():
                yield Finding(what, "note" if message.startswith("note: ") else "ok", message.removeprefix("note: "))
        except Fault as fault:
            yield Finding(what, "wrong", str(fault), fault.code)
        except Exception as error:  # such as torch's on a GPU that is full or broken
            of_the_machine = isinstance(error, (OSError, MemoryError, RuntimeError))
            code = MachineFault.code if of_the_machine else Fault.code
            yield Finding(what, "wrong", printable(f"{type(error).__name__}: {first_line(error)}"), code)


def _libraries() -> Iterator[str]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    yield f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version}" for name, version in versions.items())
    lock = Path("requirements.lock")
    if not lock.exists():
        return
    lines = [line.split("#")[0].strip() for line in lock.read_text("utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if "==" in line and not line.startswith("-")]
    other = [pin.name for pin in pins if (not pin.marker or pin.marker.evaluate()) and not _is_installed(pin)]
    if other:
        raise MachineFault(
            f"{len(other)} packages differ from requirements.lock: {', '.join(other[:5])}. Run: make .venv/ready"
        )


def _is_installed(pin: Requirement) -> bool:
    try:
        return pin.specifier.contains(importlib.metadata.version(pin.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _processor() -> Iterator[str]:
    from stages.runtime import instruction_set

    instruction_set.check()  # for the value of PALIMPSEST_INSTRUCTIONS
    if instruction_set.chosen() == instruction_set.ANY:
        yield "AVX2: results have the same bytes on any such x86-64"
    elif not instruction_set.provenance():
        yield "AVX2: results have the same bytes on any such processor of Intel"
    elif not instruction_set.native():
        yield (
            f"note: AVX2, but not Intel's: results are those of {instruction_set.vendor()}, and manifests say so; "
            f"{instruction_set.VARIABLE}=any has the same bytes everywhere, and is slower"
        )
    elif instruction_set.supported():
        yield f"note: {instruction_set.VARIABLE} is native: faster, but results are those of this kind of processor"
    else:
        yield "note: no x86-64 with AVX2 and FMA: results differ from others' in the last digits, and manifests say so"


def _gpu() -> Iterator[str]:
    import torch

    from stages.runtime.device import named

    named()  # for the value of PALIMPSEST_DEVICE
    if torch.backends.mps.is_available():
        yield (
            "note: Apple's GPU is used with PALIMPSEST_DEVICE=mps, for training, sampling and scoring; deltas are "
            "merged on the CPU, because it has no float64. It has not been tried on one."
        )
        return
    if not torch.cuda.is_available():
        yield "note: no GPU that torch can use. The embedded world needs none, SDXL needs one."
        return
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        yield f"{torch.cuda.get_device_name(i)}, {size(free)} of {size(total)} free"


def _memory() -> Iterator[str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield f"{size(total)}, {cores()} cores"


def _disk() -> Iterator[str]:
    free = shutil.disk_usage(".").free
    if free < MIN_DISK:
        raise MachineFault(f"only {size(free)} of disk free here, at least {size(MIN_DISK)} needed. Free some space.")
    yield f"{size(free)} free here"


def _project() -> Iterator[str]:
    from flows.engine.order.slots import slots_of
    from stages.core.params import load

    if not PARAMS.exists():
        yield "note: no params.yaml here. Create a project: palimpsest init my-study"
        return
    params = load()
    yield f"study {params.study}: {len(params.tasks)} tasks, {', '.join(params.strategies)}"
    slots = slots_of(params)
    yield f"{slots.jobs} stages at a time" + (f", on GPU {', '.join(slots.devices)}" if slots.devices else "")
    if not Path(".dvc").is_dir():
        raise ConfigFault("no .dvc folder here, in which DVC stores results. Run: git init && dvc init")


def _weights() -> Iterator[str]:
    from stages.core.params import load

    if not PARAMS.exists():
        return
    params = load()
    assert params.family.fingerprint  # computing it compares the files with the pinned revision
    yield f"base {params.base.name}: as pinned, {str(params.base.options.get('revision', ''))[:12]}"
    if not Path(params.score.judges).exists():
        raise InputFault(
            f"{params.score.judges}: the judges' weights are missing. Correct score.judges in params.yaml."
        )
    for judge in params.judges.values():
        assert judge.encoder  # computing it compares the files with those that are pinned
    yield f"judges: {params.score.judges}: {', '.join(params.judges)}"


def _remote() -> Iterator[str]:
    if not Path(".dvc").is_dir():
        return
    # -P: a file of this folder, which need not be a project that the user trusts, is not DVC.
    process = subprocess.run([sys.executable, "-P", "-m", "dvc", "remote", "list"], capture_output=True, text=True)
    remote = process.stdout.split("\n")[0].split()
    if process.returncode:
        raise MachineFault(f"dvc remote list: {cause_of(process.stderr)}")
    yield f"{' '.join(remote)}" if remote else "note: no DVC remote: results stay on this machine (dvc remote add)"


def _prefect() -> Iterator[str]:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        yield "a temporary server for each run; set PREFECT_API_URL to see runs on your own server"
        return
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):
            yield f"{url} is up"
    except (OSError, ValueError) as error:
        yield f"note: {url} does not respond ({error}): studies run without it"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "libraries": _libraries,
    "processor": _processor,
    "GPU": _gpu,
    "memory": _memory,
    "disk": _disk,
    "project": _project,
    "weights": _weights,
    "remote": _remote,
    "Prefect": _prefect,
}
