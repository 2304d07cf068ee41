"""Adds, relearns or removes concepts of a study, and shows the effect on every other concept."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands import console
from flows.commands.concept_scores import ConceptScore, Key, concept_scores, titles
from flows.commands.status import LOCK, RUNS
from stages.files.untrusted import copy_folder
from stages.files.writing import new_folder, write_file
from stages.files.yaml import PARAMS
from stages.runtime.faults import ConfigFault, MachineFault
from stages.runtime.formatting import number
from stages.tools import edit_params

if TYPE_CHECKING:
    from stages.core.params import Params

Edit = Callable[[str], str]


class Change:
    """A change of the sequence or of photos: shows its effect, asks for confirmation, applies it, shows the result."""

    def __init__(
        self,
        edit: Edit,
        done: str,
        names: Mapping[str, str] | None = None,
        photos: tuple[Path, str] | None = None,
        fresh: bool = True,
    ) -> None:
        """Describes the change; `apply` makes it.

        Args:
            edit: turns the text of params.yaml into the new one.
            done: printed after the change.
            names: by domain, concepts that the dataset must have.
            photos: a folder to copy photos from, and the concept as DOMAIN/NAME.
            fresh: whether the concept is new: its folder must not exist yet.
        """
        self.edit, self.done, self.names, self.photos, self.fresh = edit, done, names, photos, fresh

    def apply(self, yes: bool, run: Sequence[str] | None) -> int:
        """Shows the effect, asks, applies the change, runs the study, and shows every concept's score.

        Args:
            yes: don't ask for confirmation.
            run: the options of the run; None: run nothing.

        Returns:
            The exit code.

        Raises:
            Fault: the change cannot be made; everything is restored.
        """
        from stages.core.params import load
        from stages.runtime.process import lock

        edit_params.tree()
        with lock(LOCK):
            self._check_before()
            try:
                with self._changed():
                    params = load()
                    before = concept_scores(params.study, params.report.identity)
                    if not self._wanted(params, before, yes):
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
        _show_after(params, before, concept_scores(params.study, params.report.identity))
        console.next_steps("palimpsest report   the whole study", "palimpsest export --help   use it in other programs")
        return 0

    def _check_before(self) -> None:
        """Checks what the user gave, where the user has it: an error must not name a copy that is deleted again."""
        from flows.engine.photo_check import check_new, own_photos
        from stages.core.params import load

        if self.photos:
            folder, concept = self.photos
            name = concept.rpartition("/")[2]
            if not folder.is_dir():
                raise ConfigFault(f"{folder}: is not a folder. Give the folder that contains the photos of {name}.")
            params = load()
            check_new(folder, name, own_photos(params), params.prepare)
        elif self.names:
            data = load().data
            for domain, name in self.names.items():
                data.check(domain, name, f"{name}: ")

    def _wanted(self, params: Params, before: Mapping[Key, ConceptScore], yes: bool) -> bool:
        from flows.commands.plan import current_plan

        plan = current_plan(params)
        if not plan.changed and not self.fresh:
            print("Nothing to do: the same photos, parameters and seeds give the same results.")
            return False
        rows = []
        for domain, index, concept, effect in plan.effect(params):
            known = any(key[0] == domain and key[2] == concept for key in before)
            effect = {"learned": "learned again" if known else "new"}.get(effect, effect)
            rows.append((index, f"{domain}/{concept}" if len(params.domains) > 1 else concept, effect))
        console.table(("", "concept", "what happens"), rows)
        print(plan.sentence() if plan.changed else "No stage has to run.")
        return console.confirm("Continue?", yes)

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """Makes the change; undoes it if an exception is raised."""
        text = edit_params.params_text()
        undo = _copy_photos(*self.photos, fresh=self.fresh) if self.photos else None
        old: dict[Path, Path] = {}  # folder -> where it has been moved
        try:
            write_file(PARAMS, self.edit(text))
            old = _move_old_photos()
            yield
        except BaseException as error:
            write_file(PARAMS, text)
            for folder, place in old.items():
                place.rename(folder)
                place.parent.rmdir()
            if undo:
                undo()
            if isinstance(error, ConfigFault):
                raise _without_line(error) from None
            raise
        for place in old.values():
            shutil.rmtree(place.parent)
        if undo and undo.old:
            shutil.rmtree(undo.old.parent, ignore_errors=True)


def _without_line(fault: ConfigFault) -> ConfigFault:
    """The fault without the line of params.yaml, which the user has never seen; or that of the user's own text.

    Raises:
        ConfigFault: params.yaml was wrong before.
    """
    from stages.core.params import load

    load()
    return ConfigFault(re.sub(rf"^{re.escape(str(PARAMS))}:\d+: ", "", str(fault)))


def _move_old_photos() -> dict[Path, Path]:
    """Moves the prepared photos of deleted positions out of the study, where the base model would still sample them.

    DVC's cache still has them.

    Returns:
        Folder -> where it is now.
    """
    tree = edit_params.tree()
    known = {str(task["index"]) for task in tree["tasks"]}
    moved = {}
    for folder in (RUNS / str(tree["study"])).glob("*/*/data/*"):
        if folder.name not in known:
            place = Path(tempfile.mkdtemp(dir=LOCK.parent)) / folder.name
            moved[folder] = folder.rename(place)
    return moved


class Declined(Exception):
    """The user answered no."""


class _Undo:
    """Deletes copied photos and restores the earlier ones."""

    def __init__(self, folder: Path, old: Path | None) -> None:
        self.folder, self.old = folder, old

    def __call__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.old:
            self.old.rename(self.folder)
            self.old.parent.rmdir()


def _copy_photos(source: Path, concept: str, fresh: bool) -> _Undo:
    """Copies a folder of photos to the study's folder for this concept.

    Args:
        source: the folder.
        concept: DOMAIN/NAME.
        fresh: whether the concept is new.

    Raises:
        ConfigFault: the concept has photos already.
    """
    domain, _, name = concept.rpartition("/")
    root = Path(str(edit_params.tree().get("source", "")))
    folder = (root / domain if (root / domain).is_dir() and domain else root) / name
    if source.resolve() == folder.resolve():
        raise ConfigFault(f"{source}: contains the photos of {name} already. Omit --photos.")
    if fresh and folder.exists():
        raise ConfigFault(f"{folder}: exists already. Omit --photos {source}, or delete one of the two folders.")
    old = None
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root.parent)) / name
        try:
            folder.rename(old)
        except OSError:
            old.parent.rmdir()
            raise
    try:
        with new_folder(folder) as draft:
            copy_folder(source, draft)
    except BaseException as error:
        _Undo(folder, old)()
        if isinstance(error, MachineFault):
            raise ConfigFault(f"{source}: cannot be copied to {folder}: {error.__cause__}.") from None
        raise
    return _Undo(folder, old)


def _run(how: Sequence[str]) -> int:
    """Runs the study in a process of its own and forwards SIGTERM to it; returns the exit code."""
    sys.stdout.flush()
    process = subprocess.Popen([sys.executable, "-m", "flows.study", *how])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            with suppress(KeyboardInterrupt):  # the terminal sends it to the process as well
                return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_after(params: Params, before: Mapping[Key, ConceptScore], after: Mapping[Key, ConceptScore]) -> None:
    """Prints every concept's score before and after the change."""
    rows = []
    for domain in params.domains:
        for index, concept in params.sequence(domain, params.orders[0]).items():
            name = f"{domain}/{concept}" if len(params.domains) > 1 else concept
            keys = [(domain, strategy, concept) for strategy in params.strategies]
            rows.append((index, name, *(_difference(before.get(key), after.get(key)) for key in keys)))
    head = ("", "concept", *titles(params.study, params.strategies))
    console.table(head, rows, f"Score ({params.report.identity}) now and before")


def _difference(before: ConceptScore | None, after: ConceptScore | None) -> str:
    if after is None:
        return "-"
    if before is None:
        return f"{number(after.now)} (new)"
    change = number(after.now - before.now, signed=True)
    return f"{number(after.now)} (was {number(before.now)}, {change})"
