"""The concepts of a study: added, learnt again or removed, with what that does to every other concept."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands import console
from flows.commands.concept_scores import ConceptScore, Key, concept_scores
from flows.commands.status import LOCK, RUNS
from stages.files.writing import new_folder, write_file
from stages.files.yaml import PARAMS
from stages.runtime.faults import ConfigFault, MachineFault
from stages.runtime.formatting import duration
from stages.tools import edit_params

if TYPE_CHECKING:
    from stages.core.params import Params

Edit = Callable[[str], str]


def listed() -> list[dict[str, Any]]:
    """The concepts with their words, how many pictures there are of each, and how they stand by every strategy."""
    from stages.core.params import load

    params = load()
    scores = concept_scores(params.study, params.report.identity)
    rows = []
    for domain in params.domains:
        for index, concept in params.concepts(domain, params.orders[0]).items():
            by_strategy = {strategy: scores.get((domain, strategy, concept.name)) for strategy in params.strategies}
            rows.append(
                {
                    "domain": domain,
                    "position": index,
                    "concept": concept.name,
                    "words": f"{concept.token} {concept.noun}".strip(),
                    "pictures": len(concept.training),
                    "metric": params.report.identity,
                    "scores": {s: {"learnt": one.learnt, "now": one.now} for s, one in by_strategy.items() if one},
                }
            )
    return rows


def show_list(rows: list[dict[str, Any]]) -> None:
    strategies = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    several = len({row["domain"] for row in rows}) > 1
    lines = []
    for row in rows:
        name = f"{row['domain']}/{row['concept']}" if several else row["concept"]
        scores = [_both(row["scores"].get(strategy)) for strategy in strategies]
        lines.append((row["position"], name, row["words"], row["pictures"], *scores))
    console.table(("", "concept", "in prompts", "photos", *strategies), lines)
    if strategies:
        print(f"Scores: {rows[0]['metric']} when learnt → now.")
    console.next_steps("palimpsest concept add NAME --photos FOLDER", "palimpsest concept --help")


def _both(found: Mapping[str, float] | None) -> str:
    return f"{found['learnt']:.2f} → {found['now']:.2f}" if found else "-"


class Change:
    """A change of the sequence or of photos: what it would do, whether it is wanted, and what it has done."""

    def __init__(self, edit: Edit, done: str, photos: tuple[Path, str] | None = None, fresh: bool = True) -> None:
        """Args:
        done: printed after the change: what was done.
        photos: a folder to take photos from, and the concept as DOMAIN/NAME.
        fresh: its folder must not be there yet. If not, it is an old one: without other photos there is nothing to do.
        """
        self.edit, self.done, self.photos, self.fresh = edit, done, photos, fresh

    def apply(self, yes: bool, run: Sequence[str] | None) -> int:
        """Shows the effect, asks, changes, runs, and shows what became of every concept. Returns the exit code.

        Args:
            run: the options of the run; None: run nothing.

        Raises:
            Fault: what is asked for cannot be done; everything is as it was before.
        """
        from stages.core.params import load
        from stages.runtime.process import lock

        edit_params.tree()
        with lock(LOCK):
            try:
                with self._changed():
                    before = concept_scores(load().study, load().report.identity)
                    if not self._wanted(load(), before, yes):
                        raise Declined
            except Declined:
                print("Nothing was changed.")
                return 0
        print(f"{self.done}.")
        if run is None:
            console.next_steps("palimpsest run")
            return 0
        if code := _run(run):
            return code
        params = load()
        _show_after(params, before, concept_scores(params.study, params.report.identity))
        console.next_steps("palimpsest report   the whole study", "palimpsest export --help   take it elsewhere")
        return 0

    def _wanted(self, params: Params, before: Mapping[Key, ConceptScore], yes: bool) -> bool:
        from flows.commands.plan import current_plan

        plan = current_plan(params)
        if not plan.stages and not self.fresh:
            print("Everything stays as it is: the same photos, parameters and seeds give the same results.")
            return False
        rows = []
        for domain, index, concept, effect in plan.effect(params):
            known = any(key[0] == domain and key[2] == concept for key in before)
            effect = {"learnt": "learnt again" if known else "new"}.get(effect, effect)
            rows.append((index, f"{domain}/{concept}" if len(params.domains) > 1 else concept, effect))
        console.table(("", "concept", "what happens"), rows)
        count, time = len(plan.stages), duration(plan.seconds)
        print(f"{count} of {plan.total} stages, {time} one after another." if count else "Nothing is to be computed.")
        return console.confirmed("Go on?", yes)

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """The change, undone if anything is raised."""
        text = PARAMS.read_text("utf-8")
        undo = _copy_photos(*self.photos, fresh=self.fresh) if self.photos else None
        old: dict[Path, Path] = {}
        try:
            write_file(PARAMS, self.edit(text))
            old = _move_old_photos()
            yield
        except BaseException:
            write_file(PARAMS, text)
            for folder, place in old.items():
                place.rename(folder)
                place.parent.rmdir()
            if undo:
                undo()
            raise
        for place in old.values():
            shutil.rmtree(place.parent)
        if undo and undo.old:
            shutil.rmtree(undo.old, ignore_errors=True)


def _move_old_photos() -> dict[Path, Path]:
    """Takes the photos of positions that are no more out of the study, where the base model would still be asked for
    them: folder -> where it is now. DVC's cache keeps them."""
    tree = edit_params.tree()
    known = {str(task["index"]) for task in tree["tasks"]}
    moved = {}
    for folder in (RUNS / str(tree["study"])).glob("*/*/data/*"):
        if folder.name not in known:
            place = Path(tempfile.mkdtemp(dir=LOCK.parent)) / folder.name
            moved[folder] = folder.rename(place)
    return moved


class Declined(Exception):
    """The answer was no."""


class _Undo:
    """Takes photos away again, and puts back those that were there."""

    def __init__(self, folder: Path, old: Path | None) -> None:
        self.folder, self.old = folder, old

    def __call__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.old:
            self.old.rename(self.folder)


def _copy_photos(source: Path, concept: str, fresh: bool) -> _Undo:
    """Copies a folder of photos to where the study looks for this concept.

    Raises:
        ConfigFault: it is not a folder, or there are photos of this concept already.
    """
    domain, _, name = concept.rpartition("/")
    root = Path(str(edit_params.tree().get("source", "")))
    folder = (root / domain if (root / domain).is_dir() and domain else root) / name
    if not source.is_dir():
        raise ConfigFault(f"{source}: is not a folder. Give the folder that holds the photos of {name}.")
    if source.resolve() == folder.resolve():
        raise ConfigFault(f"{source}: is where the photos of {name} lie already. Leave it out.")
    if fresh and folder.exists():
        raise ConfigFault(f"{folder}: is there already. Leave out {source}, or remove one of them.")
    old = None
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root.parent)) / name
        folder.rename(old)
    try:
        with new_folder(folder) as draft:
            shutil.copytree(source, draft, dirs_exist_ok=True)
    except MachineFault as fault:
        _Undo(folder, old)()
        raise ConfigFault(f"{source}: cannot be copied to {folder}: {fault.__cause__}.") from None
    return _Undo(folder, old)


def _run(how: Sequence[str]) -> int:
    """The study, in a process of its own; a request to stop is handed on, and it saves."""
    sys.stdout.flush()
    process = subprocess.Popen([sys.executable, "-m", "flows.study", *how])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            with suppress(KeyboardInterrupt):  # the process has got it from the terminal, too
                return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_after(params: Params, before: Mapping[Key, ConceptScore], after: Mapping[Key, ConceptScore]) -> None:
    """Every concept's score now beside what it was before the change."""
    rows = []
    for domain in params.domains:
        for index, concept in params.sequence(domain, params.orders[0]).items():
            name = f"{domain}/{concept}" if len(params.domains) > 1 else concept
            keys = [(domain, strategy, concept) for strategy in params.strategies]
            rows.append((index, name, *(_difference(before.get(key), after.get(key)) for key in keys)))
    console.table(("", "concept", *params.strategies), rows, f"Score now ({params.report.identity}), and what it was")


def _difference(before: ConceptScore | None, after: ConceptScore | None) -> str:
    if after is None:
        return "-"
    if before is None:
        return f"{after.now:.2f} (new)"
    return f"{after.now:.2f} (was {before.now:.2f}, {after.now - before.now:+.2f})"
