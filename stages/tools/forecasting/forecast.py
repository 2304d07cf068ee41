"""What a study needs: its counts and, with a calibration, hours, disk and memory; as text or JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from stages.core.params import Params
from stages.runtime.formatting import duration, in_columns, short_duration, size
from stages.tools.forecasting.calibration import Calibration
from stages.tools.forecasting.costs import NOTHING
from stages.tools.forecasting.durations import Times, by_part
from stages.tools.forecasting.workload import WorkCounter, Workload, stages_of
from stages.training import checkpoints

NOT_COUNTED = "preparing photos, reading and writing states, the report, and other load on this machine."


def hours(params: Params, work: Workload, calibration: Calibration, times: Times | None) -> dict[str, dict[str, float]]:
    """Units of work and hours on one device by part, and together; low and high come from the interval per unit.

    Args:
        params: the study's parameters.
        work: its counts.
        calibration: measured costs.
        times: measured times of stages that have run here, which take precedence over the calibration.
    """
    counts = {"train": work.steps, "sample": work.sampled, "score": work.images + work.references}
    counts["merge"] = work.adapters
    everything, counted = stages_of(params), WorkCounter(params)
    table: dict[str, dict[str, float]] = {part: {"count": count} for part, count in counts.items()}
    costs = calibration.costs | (times.measured() if times else {})
    for part, seconds in by_part(counted, everything, (), costs).items():
        table[part] |= {key: value / 3600 for key, value in asdict(seconds).items()}
    start = calibration.start / 3600
    together = {key: sum(part[key] for part in table.values()) + start for key in ("each", "low", "high")}
    return {**table, "together": {"count": 1, **together}}


def disk(work: Workload, picture_bytes: float = 0.0, vector_bytes: int = 0) -> dict[str, int]:
    """Bytes by place; the workspace holds copies of the cache unless DVC is configured to link files."""
    dense, one = work.dense_states * work.dense_bytes + work.memory_bytes, work.adapter_bytes
    tables = work.images * vector_bytes
    return {
        "cache": int(work.kept_bytes + dense + (work.sampled - work.for_rehearsal) * picture_bytes + tables),
        "workspace": int(work.placed_bytes + dense + work.images * picture_bytes + tables),
        # Pictures by model; the checkpoints of first tasks, for other strategies, and of one other task.
        "scratch": int(work.sampled * picture_bytes + (work.first + 1) * checkpoints.STORED * 3 * one),
    }


def facts(
    params: Params, work: Workload, calibration: Calibration | None, times: Times | None = None
) -> dict[str, Any]:
    """The forecast as a JSON object; without a calibration, only counts and disk."""
    result: dict[str, Any] = {"study": params.study, "counts": asdict(work)}
    if calibration is None:
        return result | {"disk": disk(work)}
    seconds = {name: asdict(cost) for name, cost in calibration.costs.items()}
    return result | {
        "device": calibration.device,
        "source": calibration.source,
        "seconds": {**seconds, "start": calibration.start},
        "hours": {
            name: {k: v for k, v in part.items() if k != "count"}
            for name, part in hours(params, work, calibration, times).items()
        },
        "disk": disk(work, calibration.picture_bytes, calibration.vector_bytes),
        "memory": calibration.memory,
    }


def summary(params: Params, work: Workload, calibration: Calibration | None, times: Times | None = None) -> str:
    """The forecast as text for the terminal."""
    shared = work.adapters - work.trained
    lines = [
        f"{params.study}: {work.runs} runs of {work.tasks} tasks",
        f"{work.trained} adapters to train for {work.steps} steps" + (f" ({shared} more are reused)" if shared else ""),
        f"{work.sampled} pictures to sample ({_pictures(work)})",
        f"{work.adapters} merges, {work.dense_states} of them to dense states",
    ]
    if calibration is None:
        return "\n".join([*lines, *_disk(work, 0.0, 0), "Time and the size of pictures need a calibration."])
    rows = [["on " + calibration.device, "count", "each", "hours", "low", "high"]]
    costs, scored = calibration.costs, calibration.score != NOTHING
    for name, part in hours(params, work, calibration, times).items():
        count, each = (str(part["count"]), short_duration(costs[name].each)) if name in costs else ("", "")
        if scored or name != "score":
            rows.append([name, count, each, *(f"{part[key]:.3g}" for key in ("each", "low", "high"))])
    memory = ", ".join(f"{name} {size(count)}" for name, count in calibration.memory.items())
    return "\n".join(
        [
            *lines,
            "",
            in_columns(rows),
            "",
            f"Hours on one device; several share them. Start-up takes {duration(calibration.start)} on each device.",
            *_disk(work, calibration.picture_bytes, calibration.vector_bytes),
            *([f"peak memory: {memory}"] if memory else []),
            f"Not counted: {'' if scored else 'scores, '}{NOT_COUNTED}",
            *(f"Measured on {line}" for line in calibration.source.splitlines()),
        ]
    )


def _pictures(work: Workload) -> str:
    scored = f"{work.images} with reused ones, all scored"
    return f"{work.for_rehearsal} of them to rehearse; {scored}" if work.for_rehearsal else scored


def _disk(work: Workload, picture_bytes: float, vector_bytes: int) -> list[str]:
    places = disk(work, picture_bytes, vector_bytes)
    parts = ", ".join(f"{name} {size(count)}" for name, count in places.items())
    return [f"disk: {size(sum(places.values()))} ({parts})"]
