"""The parts of the live page, made of the report's own charts, tables, pictures and styles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup
from PIL import Image

from flows.commands.status import OUTPUTS, status_of
from flows.watching.progress import Partial, Reader, Training, newest_training
from stages.core.params import Params
from stages.files.artifact import digest
from stages.files.pictures import open_png
from stages.files.undo import RECORD
from stages.files.yaml import PARAMS
from stages.reporting import wording
from stages.reporting.page import charts, lines
from stages.reporting.page.overview import minus
from stages.reporting.page.render import BEGIN, environment, source, strategy_keys
from stages.reporting.page.sprites import LOSSLESS, Plan, sheet
from stages.reporting.page.svg import draw
from stages.runtime.faults import Preempted
from stages.runtime.formatting import number, words
from stages.tools import edit_params

TEMPLATES = Path(__file__).parent / "templates"
SIDE, POINTS = 64, 150  # pixels of a thumbnail; of a loss curve, points shown
Parts = dict[str, str]  # id of an element -> its content
Finished = dict[str, list[tuple[str, str]]]  # run -> positions and concepts of its finished tasks


class LivePage:
    """Makes the page and its parts. A part is drawn again only when what it shows has changed."""

    def __init__(self, load: Callable[[], Params]) -> None:
        self._load, self._drawn = load, dict[str, tuple[Any, str]]()
        self._pictures: dict[tuple[str, int], str] = {}
        self.finished: Finished = {}
        self._templates = environment(TEMPLATES)
        self._read_params()

    def _read_params(self) -> None:
        self.edited, self.params, self.tree = PARAMS.stat().st_mtime_ns, self._load(), edit_params.tree()
        self.reader = Reader(self.params)

    @property
    def outline(self) -> str:
        """Changes when the page needs other elements: another study, other concepts or strategies."""
        sequences = {d: self.params.sequence(d, self.params.orders[0]) for d in self.params.domains}
        return digest([self.params.study, self.params.strategies, self.params.dataset.name, sequences])[:16]

    def whole(self, token: str, refusal: str) -> str:
        """The page, with all parts as they are now.

        Args:
            token: that the server answers to.
            refusal: why no concept can be added; empty if one can.
        """
        parts = self.parts()
        return str(
            self._templates.get_template("watch.html.j2").render(
                study=self.params.study,
                domains=self.params.domains,
                shown=self._keys(),
                parts={name: Markup(text) for name, text in parts.items()},
                outline=self.outline,
                token=token,
                refusal=refusal,
                styles=Markup(source("report.css")),
                more=Markup((TEMPLATES / "watch.css").read_text("utf-8").strip()),
                begin=Markup(BEGIN),
                script=Markup(SCRIPT),
            )
        )  # fmt: skip

    def parts(self) -> Parts:
        """All parts as they are now."""
        if PARAMS.stat().st_mtime_ns != self.edited and not RECORD.exists():  # what is being changed may be undone
            self._read_params()
        status = status_of(self.tree)
        self.finished = self._finished(status)
        parts = {"progress": self._render("progress", **_progress(status))}
        parts["training"] = self._training(newest_training(self.params))
        for domain in self.params.domains:
            partial = self.reader.partial(domain)
            state = [[run, *matrix.scores.flat] for run, matrix in partial.matrices.items()]
            for key in self._keys():
                name = key["name"]
                parts[f"matrix-{domain}-{name}"] = self._once(f"m {domain} {name}", state, self._matrix, partial, name)
            for run in self.reader.first_runs(domain):
                facts = {"run": str(run), "name": run.strategy, "tasks": self.finished[str(run)]}
                parts[f"export-{domain}-{run.strategy}"] = self._render("export", **facts)
            parts[f"film-{domain}"] = self._film(domain)
            parts[f"cost-{domain}"] = self._once(f"c {domain}", state, self._cost, partial)
        return parts

    def _finished(self, status: dict[str, Any]) -> Finished:
        finished = {}
        for run in status["runs"]:
            domain, order, _, _ = run["run"].split("/")
            concepts = self.params.sequence(domain, order).items()
            done = zip(concepts, run["stages_done"], strict=True)
            finished[run["run"]] = [task for task, stages in done if stages == len(OUTPUTS)]
        return finished

    def _once(self, name: str, state: Any, make: Callable[..., str], *arguments: Any) -> str:
        key = digest([self.outline, str(state)])
        if self._drawn.get(name, ("", ""))[0] != key:
            self._drawn[name] = (key, make(*arguments))
        return self._drawn[name][1]

    def _keys(self) -> list[dict[str, Any]]:
        return strategy_keys(self.params)

    def _render(self, part: str, **context: Any) -> str:
        text = self._templates.get_template(f"{part}.html.j2").render(strategies=self._keys(), **context)
        return str(text).strip()

    def _matrix(self, partial: Partial, strategy: str) -> str:
        if not list(partial.matrices[strategy].cells()):
            return '<p class="fine">Nothing has been scored yet.</p>'
        # A chart reads `matrices` and `labels` of a verdict, which stands for a whole study.
        spec = charts.heatmap(cast(Any, partial), strategy, self._pending(partial, strategy))
        svg = draw(spec, f"{strategy}: each concept after each task, so far")
        rows = wording.matrix(partial.matrices[strategy], partial.labels, 2)
        return self._render("matrix", svg=svg, rows=rows, strategy=strategy)

    def _pending(self, partial: Partial, strategy: str) -> list[tuple[int, int]]:
        """The cells of a matrix that this study will fill."""
        planned = {(0, int(task.index)) for task in self.params.tasks}
        for after in self.params.tasks:
            seen = self.params.tasks if after.sees == "data" else self.params.tasks[: int(after.index)]
            planned |= {(int(after.index), int(task.index)) for task in seen}
        return sorted(planned.difference(partial.matrices[strategy].cells()))

    def _film(self, domain: str) -> str:
        """A row per concept and strategy, a column per task."""
        tasks, runs = self.params.tasks, self.reader.first_runs(domain)
        sequence = runs[0].sequence
        names = self.params.sequence(domain, self.params.orders[0])
        rows = []
        for task in tasks:
            cells = [[self.reader.pictures(run.at(after.index), task.index) for after in tasks] for run in runs]
            base = self.reader.pictures(sequence.base, task.index)
            first = self.reader.reference(domain, task.index)
            rows.append((words(names[task.index]), first, base, cells, int(task.index)))
        state = [[str(x) for x in (row[1], row[2], row[3])] for row in rows]
        stamps = [path.stat().st_mtime_ns for row in rows for cells in row[3] for path in cells if path]
        return self._once(f"f {domain}", [state, stamps], self._draw_film, rows, [run.strategy for run in runs])

    def _draw_film(self, rows: list[tuple[str, Path | None, Path | None, Any, int]], strategies: list[str]) -> str:
        concepts = [
            {
                "name": name,
                "task": task,
                "reference": self._picture(reference),
                "base": self._picture(base),
                "rows": {s: [self._picture(path) for path in row] for s, row in zip(strategies, cells, strict=True)},
            }
            for name, reference, base, cells, task in rows
        ]
        sees_all = all(task.sees == "data" for task in self.params.tasks)
        return self._render("film", concepts=concepts, sees_all=sees_all)

    def _picture(self, path: Path | None) -> str:
        """A thumbnail as a data URI; empty if there is no picture yet."""
        if path is None:
            return ""
        key = str(path), path.stat().st_mtime_ns
        if key not in self._pictures:
            self._pictures[key] = thumbnail(open_png(path))
        return self._pictures[key]

    def _cost(self, partial: Partial) -> str:
        """What the task learned last changed for each earlier concept, by strategy."""
        last = {name: partial.after(name) for name in partial.matrices}
        shown = max(last.values())
        if shown < 2:
            return '<p class="fine">Nothing yet: this needs the scores after two tasks.</p>'
        rows = [["concept", *partial.matrices]]
        for task in range(1, shown):
            cells = [_change(partial, name, shown, task) if last[name] == shown else "" for name in partial.matrices]
            rows.append([partial.labels[task - 1], *cells])
        return self._render("cost", rows=rows, learned=partial.labels[shown - 1], metric=partial.metric)

    def _training(self, training: Training | None) -> str:
        if training is None:
            return self._render("training", training=None)
        state = [str(training.run), training.index, len(training.loss), [str(path) for path in training.previews]]
        return self._once("training", state, self._draw_training, training)

    def _draw_training(self, training: Training) -> str:
        step = -(-max(len(training.loss), 1) // POINTS)
        means = [training.loss[at : at + step] for at in range(0, len(training.loss), step)]
        points: list[dict[str, Any]] = [
            {"step": min((k + 1) * step, len(training.loss)), "value": sum(some) / len(some), "tip": ""}
            for k, some in enumerate(means)
        ]
        svg = None
        if points:
            place = self.params.strategies.index(training.run.strategy)
            top = 1.1 * max(point["value"] for point in points)
            svg = draw(lines.losses(points, [training.steps], top, place), "Loss of the training so far")
        concept = self.params.sequence(training.run.sequence.domain, training.run.sequence.order)[training.index]
        shown = [self._picture(path) for path in training.previews]
        facts: dict[str, Any] = {"strategy": training.run.strategy, "concept": concept, "index": training.index}
        facts |= {"done": len(training.loss), "steps": training.steps, "previews": self.params.watch.previews_every}
        return self._render("training", training=facts, svg=svg, previews=shown)


def thumbnail(picture: Image.Image) -> str:
    """A picture as a data URI, at most SIDE pixels."""
    side = min(SIDE, max(picture.size))
    return sheet([picture], 1, Plan(side, side <= LOSSLESS and side == max(picture.size), 1, 1, False)).uri


def _change(partial: Partial, strategy: str, after: int, task: int) -> str:
    matrix = partial.matrices[strategy]
    was, now = float(matrix.at(after - 1, task)), float(matrix.at(after, task))
    if was != was or now != now:
        return ""
    return minus(f"{number(was)} → {number(now)} ({number(now - was, signed=True)})")


def _progress(status: dict[str, Any]) -> dict[str, Any]:
    """The facts of the progress line."""
    running, last = bool(status["running"]) and not RECORD.exists(), status["last_flow"]  # a change holds the lock too
    stopped = bool(not running and last and last["code"] in (None, Preempted.code))  # None: it was killed
    return {
        "running": running,
        "stopped": stopped,
        "last": last,
        "finished": not running and status["tasks_done"] == status["tasks_of_all_runs"],
        "report": status["report"],
        "tasks_done": status["tasks_done"],
        "tasks": status["tasks_of_all_runs"],
    }


SCRIPT = (TEMPLATES / "watch.js").read_text("utf-8").strip()
