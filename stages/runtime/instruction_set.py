"""One instruction set for every numeric library, so that equal inputs give equal bytes on other x86-64 with AVX2.

By themselves the libraries choose their kernels by the processor. These add numbers in different orders, and results
differ from the fourth digit on. Each library reads its settings once, when it is loaded or first used. So `pin` runs
when the package `stages` is imported, and other processes inherit the settings.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path

from stages.runtime.faults import ConfigFault

VARIABLE = "PALIMPSEST_INSTRUCTIONS"
AVX2, ANY, NATIVE = VALUES = ("avx2", "any", "native")  # equal on Intel's; on every vendor's; on this kind of processor
# Matrix products and LAPACK of torch: MKL's conditional numerical reproducibility. COMPATIBLE (SSE2) is the only branch
# that it has for processors of every vendor. On AMD it silently ignores the branch AVX2. STRICT: a row of a
# product does not depend on how many there are, so trainings can share a batch.
BRANCHES = {AVX2: "AVX2,STRICT", ANY: "COMPATIBLE"}
CPUINFO, INTEL = Path("/proc/cpuinfo"), "GenuineIntel"
REQUIRED = {"avx2", "fma"}
SETTINGS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels, its normal random numbers among them
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "OPENBLAS_CORETYPE": "Haswell",  # matrix products and LAPACK of numpy: AVX2 and FMA
    "OPENBLAS_NUM_THREADS": "1",  # sums depend on how they are split
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",  # numpy's own loops: AVX2 and FMA, and nothing later
}
CLEARED = ("NPY_DISABLE_CPU_FEATURES",)  # numpy accepts only one of the two
loaded_before: list[str] = []  # libraries that may have read other settings already


def settings(value: str) -> dict[str, str]:
    """The variables of the libraries for `avx2` or `any`."""
    return {**SETTINGS, "MKL_CBWR": BRANCHES[value]}


def pin() -> None:
    """Writes the settings to the environment of this process and so of its children, in place of other values there.

    If PALIMPSEST_INSTRUCTIONS is `native`, removes them: they can only come from a parent process. Does nothing if the
    processor lacks AVX2 or FMA.
    """
    pinned = next((value for value in BRANCHES if settings(value).items() <= os.environ.items()), NATIVE)
    if pinned == chosen():
        return
    if native():
        for name in settings(pinned):
            del os.environ[name]
        return
    loaded_before.extend(name for name in ("numpy", "torch") if name in sys.modules)
    os.environ.update(settings(chosen()))
    for name in CLEARED:
        os.environ.pop(name, None)


def chosen() -> str:
    """What PALIMPSEST_INSTRUCTIONS says; `native` if the processor can do nothing else."""
    value = os.environ.get(VARIABLE, AVX2)
    return (value if value in VALUES else AVX2) if supported() else NATIVE  # `check` refuses other values


def native() -> bool:
    """Whether the libraries choose their instructions themselves: results are then those of this kind of processor."""
    return chosen() == NATIVE


def supported() -> bool:
    """Whether this is an x86-64 processor with AVX2 and FMA, under Linux."""
    return platform.machine() == "x86_64" and set(_processor(CPUINFO, "flags").split()) >= REQUIRED


def vendor() -> str:
    """GenuineIntel, AuthenticAMD or another one; empty if the system does not say."""
    return _processor(CPUINFO, "vendor_id")


@cache
def _processor(file: Path, fact: str) -> str:
    """What Linux says of the first processor, read once: every batch of inference asks for it."""
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            lines = (line.partition(":") for line in text)
            return next((value.strip() for name, _, value in lines if name.strip() == fact), "")
    except OSError:
        return ""


def provenance() -> dict[str, str]:
    """Returns what manifests record: nothing if the results are those that Intel's processors have by default."""
    if chosen() != AVX2:
        return {"instructions": chosen()}
    return {} if vendor() == INTEL else {"instructions": f"{AVX2} of {vendor() or 'an unknown vendor'}"}


def check() -> str:
    """Returns a warning if numpy or torch were loaded too early; empty if not.

    Raises:
        ConfigFault: PALIMPSEST_INSTRUCTIONS has an unknown value.
    """
    if (value := os.environ.get(VARIABLE, AVX2)) not in VALUES:
        raise ConfigFault(f"{VARIABLE}: is '{value}', but can only be {', '.join(VALUES)}. Correct it or unset it.")
    if not loaded_before:
        return ""
    return f"{' and '.join(loaded_before)} loaded too early for equal results on other machines: import stages first."
