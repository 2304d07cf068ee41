"""What a study will take: its counts, and with a calibration its hours, disk and memory, in words and as facts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from stages.core.params import Params
from stages.runtime.formatting import brief, duration, in_columns, size
from stages.tools.forecasting.calibration import Calibration
from stages.tools.forecasting.durations import Times, seconds_by_part
from stages.tools.forecasting.workload import Work, Workload, stages_of
from stages.training.loop import KEPT

LEFT_OUT = (
    "Not counted: the photos' preparation, reading and writing states, the report, and what other work takes away here."
)


def hours(params: Params, work: Workload, found: Calibration, times: Times | None) -> dict[str, dict[str, float]]:
    """By part, how often it is done and its hours on one device; and together. Low and high are those of the units.

    Args:
        times: of stages of this study that have run here, which count more than the calibration.
    """
    counts = {"train": work.steps, "sample": work.sampled, "score": work.images + work.references}
    counts["merge"] = work.adapters
    everything, counted = stages_of(params), Work(params)
    table: dict[str, dict[str, float]] = {part: {"count": count} for part, count in counts.items()}
    for key in ("each", "low", "high"):
        costs = {part: getattr(cost, key) for part, cost in found.costs.items()}
        for part, seconds in seconds_by_part(counted, everything, (), times, costs).items():
            table[part][key] = seconds / 3600
    start = found.start / 3600
    together = {key: sum(part[key] for part in table.values()) + start for key in ("each", "low", "high")}
    return {**table, "together": {"count": 1, **together}}


def disk(work: Workload, picture_bytes: float = 0.0, vector_bytes: int = 0) -> dict[str, int]:
    """Bytes by place. The workspace holds copies of what the cache holds, unless DVC is told to link them."""
    dense, one = work.dense_states * work.dense_bytes, work.adapter_bytes
    tables = work.images * vector_bytes
    return {
        "cache": int(work.kept_adapters * one + dense + work.sampled * picture_bytes + tables),
        "workspace": int(work.placed_adapters * one + dense + work.images * picture_bytes + tables),
        # Pictures by model; the checkpoints of first tasks, for other strategies, and of one other task.
        "scratch": int(work.sampled * picture_bytes + (work.first + 1) * KEPT * 3 * one),
    }


def facts(params: Params, work: Workload, found: Calibration | None, times: Times | None = None) -> dict[str, Any]:
    """As JSON."""
    told: dict[str, Any] = {"study": params.study, "counts": asdict(work)}
    if found is None:
        return told | {"disk": disk(work)}
    seconds = {name: asdict(cost) for name, cost in found.costs.items()}
    return told | {
        "device": found.device,
        "seconds": {**seconds, "start": found.start},
        "hours": {
            name: {k: v for k, v in part.items() if k != "count"}
            for name, part in hours(params, work, found, times).items()
        },
        "disk": disk(work, found.picture_bytes, found.vector_bytes),
        "memory": found.memory,
    }


def words(params: Params, work: Workload, found: Calibration | None, times: Times | None = None) -> str:
    shared = work.adapters - work.trained
    lines = [
        f"{params.study}: {work.runs} runs of {work.tasks} tasks",
        f"{work.trained} adapters to train for {work.steps} steps" + (f" ({shared} more are shared)" if shared else ""),
        f"{work.sampled} pictures to sample, {work.images} with those that are shared, all of them to score",
        f"{work.adapters} merges, {work.dense_states} of them to dense states",
    ]
    if found is None:
        return "\n".join([*lines, *_disk(work, 0.0, 0), "Pictures and time are not in it without a calibration."])
    rows = [["on " + found.device, "count", "each", "hours", "low", "high"]]
    for name, part in hours(params, work, found, times).items():
        count, each = (str(part["count"]), brief(getattr(found, name).each)) if name != "together" else ("", "")
        rows.append([name, count, each, *(f"{part[key]:.3g}" for key in ("each", "low", "high"))])
    memory = ", ".join(f"{name} {size(count)}" for name, count in found.memory.items())
    return "\n".join(
        [
            *lines,
            "",
            in_columns(rows),
            "",
            f"Hours are those of one device; several share them. The start takes {duration(found.start)} on each.",
            *_disk(work, found.picture_bytes, found.vector_bytes),
            f"memory, at most: {memory}",
            LEFT_OUT,
        ]
    )


def _disk(work: Workload, picture_bytes: float, vector_bytes: int) -> list[str]:
    places = disk(work, picture_bytes, vector_bytes)
    parts = ", ".join(f"{name} {size(count)}" for name, count in places.items())
    return [f"disk: {size(sum(places.values()))} ({parts})"]
