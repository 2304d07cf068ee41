"""One instruction set for every numeric library, so that equal inputs give equal bytes on any x86-64 with AVX2.

By themselves the libraries choose their kernels by the processor. These add numbers in different orders, and results
differ from the fourth digit on. Each library reads its settings once, when it is loaded or first used. So `pin` runs
when the package `stages` is imported, and other processes inherit the settings.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from stages.runtime.faults import ConfigFault

VARIABLE, ANY, NATIVE = "PALIMPSEST_INSTRUCTIONS", "any", "native"
CPUINFO = Path("/proc/cpuinfo")
REQUIRED = {"avx2", "fma"}
SETTINGS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels, its normal random numbers among them
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    # Matrix products and LAPACK of torch: MKL's conditional numerical reproducibility. COMPATIBLE (SSE2) is the only
    # branch that it has for processors of every vendor. On AMD it ignores the branch AVX2 without saying so.
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",  # matrix products and LAPACK of numpy: AVX2 and FMA
    "OPENBLAS_NUM_THREADS": "1",  # sums depend on how they are split
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",  # numpy's own loops: AVX2 and FMA, and nothing later
}
CLEARED = ("NPY_DISABLE_CPU_FEATURES",)  # numpy accepts only one of the two
loaded_before: list[str] = []  # libraries that may have read other settings already


def pin() -> None:
    """Writes SETTINGS to the environment of this process and so of its children, in place of other values there.

    If PALIMPSEST_INSTRUCTIONS is `native`, removes them: they can only come from a parent process. Does nothing if the
    processor lacks AVX2 or FMA.
    """
    pinned = all(os.environ.get(name) == value for name, value in SETTINGS.items())
    if pinned != native():
        return
    if pinned:
        for name in SETTINGS:
            del os.environ[name]
        return
    loaded_before.extend(name for name in ("numpy", "torch") if name in sys.modules)
    os.environ.update(SETTINGS)
    for name in CLEARED:
        os.environ.pop(name, None)


def native() -> bool:
    """Whether the libraries choose their instructions themselves: results are then those of this kind of processor."""
    return os.environ.get(VARIABLE) == NATIVE or not supported()


def supported() -> bool:
    """Whether this is an x86-64 processor with AVX2 and FMA, under Linux."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return False
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return set(flags.split()) >= REQUIRED


def provenance() -> dict[str, str]:
    """Returns what manifests record: nothing if the instruction set is fixed."""
    return {"instructions": NATIVE} if native() else {}


def check() -> str:
    """Returns a warning if numpy or torch were loaded too early; empty if not.

    Raises:
        ConfigFault: PALIMPSEST_INSTRUCTIONS has an unknown value.
    """
    if (value := os.environ.get(VARIABLE, ANY)) not in (ANY, NATIVE):
        raise ConfigFault(f"{VARIABLE}: is '{value}', but can only be {ANY} or {NATIVE}. Correct it or unset it.")
    if not loaded_before:
        return ""
    return f"{' and '.join(loaded_before)} loaded too early for equal results on other machines: import stages first."
