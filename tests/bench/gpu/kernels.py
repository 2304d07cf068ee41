"""Where the time on the device goes, by kind of kernel."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from stages.runtime.device import device
from tests.bench.gpu.notes import Notes

# The first pattern that a kernel's name matches; on a CPU the names of torch's operations. The rest is elementwise.
CATEGORIES = {
    "fused": r"^triton_(poi|per|red)_|cpp_fused",  # by torch.compile: elementwise operations, norms, copies
    "attention": r"flash|fmha|sdpa|sdp_|attention|mem_efficient|softmax",
    "convolution": r"conv|implicit_gemm|wgrad|dgrad|fprop|winograd|cudnn_.*nhwc",
    "product": r"gemm|gemv|matmul|cutlass|cublas|nvjet|::mm$|::addmm|::bmm|::baddbmm|::linear|splitk",
    "norm": r"norm|rowwisemoments|layer_?norm|welford",
    "copy": r"memcpy|memset|copy|cat(array|$|_)|::cat|::clone|::contiguous|transpose",
    "reduction": r"reduce|sum|::mean",
    "optimiser": r"adam|multi_tensor|foreach|fused_",
}
ELEMENTWISE = "elementwise"
LONGEST = 12  # kernels that are printed by name
# Operations of torch without a kernel that are no views.
WITHOUT_KERNEL = (
    r"aten::(new_)?empty|aten::(resize_|set_|result_type|_unsafe_view|item|_local_scalar_dense|is_nonzero)$"
)


def category(name: str) -> str:
    """The kind of a kernel, by its name."""
    return next((kind for kind, pattern in CATEGORIES.items() if re.search(pattern, name, re.IGNORECASE)), ELEMENTWISE)


def by_category(events: Mapping[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
    """Seconds and number of kernels by kind, the longest first.

    Args:
        events: name -> seconds and number of launches.
    """
    kinds = defaultdict[str, list[float]](lambda: [0.0, 0])
    for name, (seconds, count) in events.items():
        total = kinds[category(name)]
        total[0] += seconds
        total[1] += count
    ranked = sorted(kinds.items(), key=lambda item: -item[1][0])
    return {kind: (seconds, int(count)) for kind, (seconds, count) in ranked}


def profiled(work: Callable[[], object]) -> dict[str, tuple[float, int]]:
    """Seconds and launches of each kernel that some work runs; on a CPU, of each operation that stands for one."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device().type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as recorded:
        work()
    events: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in recorded.events():
        if str(event.device_type).endswith("CUDA") if on_gpu else _is_outermost(event):
            events[event.name][0] += (event.device_time_total if on_gpu else event.cpu_time_total) / 1e6
            events[event.name][1] += 1
    return {name: (seconds, int(count)) for name, (seconds, count) in events.items()}


def _is_outermost(event: Any) -> bool:
    """Whether an operation runs a kernel, and not as a part of another one that does."""
    parent = event.cpu_parent
    while parent is not None and not runs_kernel(parent.name):
        parent = parent.cpu_parent
    return parent is None and runs_kernel(event.name)


@cache
def runs_kernel(name: str) -> bool:
    """Whether an event of a CPU's profile is a compiled kernel, or an operation with a kernel of its own: neither a
    view nor one that only calls others, as aten::linear."""
    if not name.startswith("aten::"):
        return category(name) == "fused"
    inner = name.removeprefix("aten::")
    operation = getattr(torch.ops.aten, inner, None)
    if operation is None or re.match(WITHOUT_KERNEL, inner):
        return False
    overloads = [getattr(operation, overload) for overload in operation.overloads() if "out" not in overload]
    return not any(one.is_view for one in overloads) and not all(map(_only_calls_others, overloads))


def _only_calls_others(operation: Any) -> bool:
    name, composite = operation.name(), "CompositeImplicitAutograd"
    return not torch._C._dispatch_has_kernel(name) or torch._C._dispatch_has_kernel_for_dispatch_key(name, composite)


def table(
    notes: Notes, what: str, work: Callable[[], object], count: int, at_peak: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Prints and returns the kernels of some work by kind, and prints the longest ones by name.

    Args:
        notes: the output.
        what: the work's name, as `training`.
        work: what is profiled.
        count: units of work in it, as steps; times are per unit.
        at_peak: seconds that a unit's arithmetic takes at the measured peak, by kind; their shares are printed.
    """
    events = profiled(work)
    kinds = by_category(events)
    total = sum(seconds for seconds, _ in kinds.values()) or 1e-9
    floors = {kind: seconds * count for kind, seconds in (at_peak or {}).items()}
    peaks = {kind: floors[kind] / seconds for kind, (seconds, _) in kinds.items() if kind in floors and seconds}
    share = f", the floor is {sum(floors.values()) / total:.0%} of it" if floors else ""
    launches = sum(number for _, number in kinds.values())
    notes.print(f"  {what}: {1e3 * total / count:.2f} ms of kernels each in {launches / count:.0f} launches{share}")
    for kind, (seconds, number) in kinds.items():
        peak = f", {peaks[kind]:.0%} of the peak" if kind in peaks else ""
        each = f"{1e3 * seconds / count:9.3f} ms {number / count:8.0f} launches"
        notes.print(f"    {kind:12} {seconds / total:6.1%} {each}{peak}")
    for name, (seconds, number) in sorted(events.items(), key=lambda event: -event[1][0])[:LONGEST]:
        notes.print(f"      {1e3 * seconds / count:9.3f} ms {number / count:8.1f} x {name[:90]}")
    rows = {kind: {"ms": 1e3 * s / count, "launches": n / count, "share": s / total} for kind, (s, n) in kinds.items()}
    for kind, reached in peaks.items():
        rows[kind]["of_peak"] = reached
    notes.facts.setdefault("kernels", {})[what] = rows
    if floors:
        notes.facts.setdefault("floors", {})[what] = sum(floors.values()) / total
    return rows
