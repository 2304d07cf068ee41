"""The background of the results: merge checks, losses, settings, models, and the photos with their licences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, runs, sequences
from stages.evaluation.statistics import Summary
from stages.files import artifact, model_lock, tables
from stages.files.yaml import JUDGES
from stages.reporting import regimes
from stages.reporting.data_files import flat, rounded, settings
from stages.reporting.page import lines
from stages.reporting.page.svg import draw
from stages.reporting.wording import PLACE
from stages.runtime.formatting import words

# The title and meaning of each value of the merge check; other values are shown by their own name.
FACTS = {
    "cosine": ("cosine with earlier tasks", "0: orthogonal to the earlier tasks; below 0: against them."),
    "sign_conflicts": ("sign conflicts", "Share of weights that the task moves against earlier tasks."),
    "stable_rank": ("stable rank", "Effective number of directions in which the delta acts, mean over modules."),
    "cross_terms": ("share of cross terms", "Where factors are added: the part of the delta from no single task."),
    "relative_error": ("distance from the trained model", "Relative error of the saved delta against the trained one."),
    "norm": ("norm of the whole delta", "Frobenius norm over all modules."),
    "own_norm": ("norm of the task's own delta", "Frobenius norm of the delta that the task added."),
    "survival": ("delta remaining after the cast", "Share of the delta that remains after rounding base + delta."),
}
UNKNOWN = "not stated"
BINS = 25  # points of a loss curve per task: each is a mean over steps
SOFTWARE = ("torch", "diffusers", "transformers", "peft", "open_clip_torch", "timm", "numpy", "pillow", "safetensors")


def geometry(summary: Summary) -> dict[str, Any] | None:
    """The section on merge checks: every value after each task, mean over runs; None if there is none."""
    domains = []
    for domain in summary.params.domains:
        rows = [row for row in summary.checks if row["domain"] == domain]
        facts = list(dict.fromkeys(key for row in rows for key in row if key not in PLACE))
        order = list(FACTS)
        facts.sort(key=lambda fact: (order.index(f) if (f := fact.split(".")[0]) in order else len(order), fact))
        panels = [_fact(summary.params, rows, fact) for fact in facts]
        if panels:
            domains.append({"name": domain, "panels": panels})
    return {"domains": domains} if domains else None


def _fact(params: Params, rows: list[dict[str, str | float]], fact: str) -> dict[str, Any]:
    head, _, form = fact.partition(".")
    title, meaning = FACTS.get(head, (words(head), ""))
    title += f", {form}" if form else ""
    means: dict[tuple[str, int], float] = {}
    for strategy in params.strategies:
        for task in (int(t.index) for t in params.tasks):
            of_task = [float(r[fact]) for r in rows if (r["strategy"], r["task"]) == (strategy, task) and fact in r]
            if of_task:
                means[strategy, task] = sum(of_task) / len(of_task) + 0.0  # zero has no sign
    known = regimes.of(params)
    titled = {s: regimes.titled(known, s) for s in params.strategies}
    points = [
        {"strategy": s, "after": t, "value": rounded(x), "tip": f"{words(titled[s])}, task {t}: {x:.4g}"}
        for (s, t), x in means.items()
    ]
    values = {f"{x:.4g}" for x in means.values()}
    chart = lines.line_per_strategy(points, params.strategies, len(params.tasks))
    svg = draw(chart, f"{title} after each task") if len(values) > 1 else None  # a constant is printed, not drawn
    table = [["task", *titled.values()]]
    for task in (int(t.index) for t in params.tasks):
        table.append([str(task), *(f"{means[s, task]:.4g}" if (s, task) in means else "" for s in params.strategies)])
    return {"title": title, "meaning": meaning, "svg": svg, "value": min(values), "rows": table}


def losses(summary: Summary) -> dict[str, Any] | None:
    """The section on training losses: the loss over all tasks, mean over runs; None if no run stored its losses."""
    domains = []
    for domain in summary.params.domains:
        by_strategy: dict[str, list[list[np.ndarray[Any, Any]]]] = {}
        for run in (r for r in runs(summary.params) if r.sequence.domain == domain):
            if curve := _losses(summary.params, run):
                by_strategy.setdefault(run.strategy, []).append(curve)
        if not by_strategy:
            continue
        binned = {name: _binned(curves) for name, curves in by_strategy.items()}
        top = float(np.quantile([y for rows, _ in binned.values() for _, y in rows], 0.995)) * 1.1
        panels = []
        for name, (rows, starts) in binned.items():
            index = summary.params.strategies.index(name)
            points = [
                {"step": x, "value": min(rounded(y), rounded(top)), "tip": f"up to step {x}: {y:.4f}"} for x, y in rows
            ]
            svg = draw(lines.losses(points, starts, rounded(top), index), f"{words(name)}: training loss")
            panels.append({"strategy": regimes.titled(regimes.of(summary.params), name), "svg": svg})
        domains.append({"name": domain, "panels": panels})
    return {"domains": domains} if domains else None


def _losses(params: Params, run: Run) -> list[np.ndarray[Any, Any]]:
    """The losses of each task of a run, [step] each; an empty list if any file is missing."""
    paths = [run.at(task.index) / "adapter" / "losses.parquet" for task in params.tasks]
    if not all(path.is_file() for path in paths):
        return []
    return [tables.read(path, tables.LOSSES)["loss"].to_numpy() for path in paths]


def _binned(curves: list[list[np.ndarray[Any, Any]]]) -> tuple[list[tuple[int, float]], list[int]]:
    """Mean losses as rows of (last step, loss), and the steps at which tasks begin."""
    rows, starts, begin = list[tuple[int, float]](), list[int](), 0
    for tasks in zip(*curves, strict=True):
        loss = np.mean([x[: min(map(len, tasks))] for x in tasks], 0)
        starts.append(begin)
        for part in np.array_split(np.arange(len(loss)), min(BINS, len(loss))):
            rows.append((begin + int(part[-1]) + 1, float(loss[part].mean())))
        begin += len(loss)
    return rows, starts


def study(summary: Summary) -> dict[str, Any]:
    """The section on runs, settings, models and software; nothing in it depends on when or where the study ran."""
    params = summary.params
    first, sequence = runs(params)[0], sequences(params)[0]
    scores = artifact.read(sequence.base / "scores", "scores")
    images = artifact.read(sequence.base / "images", "images")
    models = [["base model", str(images.get("family", "")), str(images.get("base", ""))]]
    models += [["judge", words(name), encoder] for name, encoder in sorted(scores["encoders"].items())]
    rows = [["setting", "value"], *([key, value] for key, value in flat(settings(params)).items())]
    strategies, known = [["strategy", "regime", "options"]], regimes.of(params)
    for name in params.strategies:
        state = Run(first.sequence, name, first.seed).at(params.tasks[-1].index) / "state"
        options = artifact.read(state, "state").get("strategy", {}).get("options", {}) if state.is_dir() else {}
        strategies.append(
            [name, known[name], ", ".join(f"{key} = {value}" for key, value in sorted(flat(options).items())) or "none"]
        )
    software = [["package", "version"], *([name, number] for name in SOFTWARE if (number := _version(name)))]
    return {
        "settings": rows,
        "options": strategies,
        "models": [["role", "name", "fingerprint"], *models],
        "software": software,
        "runs": len(runs(params)),
        "orders": params.orders,
        "seeds": params.seeds,
        "strategies": params.strategies,
        "tasks": len(params.tasks),
        "sequences": [["order", "domain", *params.positions], *_sequences(params)],
    }


def _sequences(params: Params) -> Iterator[list[str]]:
    for sequence in sequences(params):
        concepts = params.sequence(sequence.domain, sequence.order).values()
        yield [sequence.order, sequence.domain, *map(words, concepts)]


def _version(name: str) -> str:
    try:
        return version(name).split("+")[0]  # the rest is the build for a machine
    except PackageNotFoundError:
        return ""


def photos(summary: Summary) -> dict[str, Any]:
    """The section on photos and weights: the source and licence of every training picture, reference and model."""
    domains = []
    for domain in summary.params.domains:
        sequence = TaskSequence(summary.params.study, domain, summary.params.orders[0])
        concepts = [_concept(artifact.read(sequence.data(t.index), "data")) for t in summary.params.tasks]
        domains.append({"name": domain, "concepts": concepts})
    return {"domains": domains, "models": [["role", "weights", "source", "licence"], *_models(summary.params)]}


def _models(params: Params) -> Iterator[list[str]]:
    """A row for the base model, other models in its options, and the judges; models with shared weights share a row."""
    lock = model_lock.project_lock()
    roles: dict[str, list[str]] = {}
    for key, value in params.base.options.items():
        if key == "path" or model_lock.origin_and_licence(str(value), lock):
            roles.setdefault(str(value), []).append("base model" if key == "path" else f"base model, {key}")
    for name, options in params.score.metrics.items():
        for key in sorted(JUDGES.intersection(options), reverse=True):
            role = f"judge {words(name)}" + ("" if key == "path" else f", {key}")
            roles.setdefault(f"{params.score.judges}/{options[key]}", []).append(role)
    for path, names in roles.items():
        yield [", ".join(names), path, *(model_lock.origin_and_licence(path, lock) or (UNKNOWN, UNKNOWN))]


def _concept(manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts = manifest["concept"]
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for role, entries in sorted(manifest["pictures"].items(), reverse=True):
        for entry in entries:
            key = (entry["source"] or UNKNOWN, entry["licence"] or UNKNOWN)
            files = groups.setdefault(key, {})
            files.setdefault(entry["name"], []).append(role)
    credits = [
        {"source": source, "licence": licence, "files": [[name, roles] for name, roles in files.items()]}
        for (source, licence), files in groups.items()
    ]
    return {
        "name": words(facts["name"]),
        "token": facts["token"],
        "noun": facts.get("noun", ""),
        "training_prompt": facts.get("training_prompt", ""),
        "prompts": facts["prompts"],
        "credits": credits,
    }
