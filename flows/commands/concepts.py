"""Adds, relearns or removes concepts of a study, and shows the effect on every other concept."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands import console
from flows.commands.concept_scores import ConceptScore, Key, concept_scores, titles
from flows.commands.status import RUNS
from stages.files.artifact import folder_digest
from stages.files.undo import LOCK, Reversible, locked, reversible
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
        self._printed = set[str]()  # notes on photos, of which the plan has the same and more

    def apply(self, yes: bool, run: Sequence[str] | None, plan: bool = False, jobs: int = 0) -> int:
        """Shows the effect, asks, applies the change, runs the study, and shows every concept's score.

        Args:
            yes: don't ask for confirmation.
            run: the options of the run; None: run nothing.
            plan: only show the effect.
            jobs: stages at a time, of which the effect is shown; 0: the default.

        Returns:
            The exit code.

        Raises:
            Fault: the change cannot be made; everything is restored.
        """
        from stages.core.params import load

        edit_params.tree()
        with locked():
            self._check_before()
            try:
                with self._changed():
                    params = load()
                    before = concept_scores(params.study, params.report.identity)
                    if not self._wanted(params, before, jobs) or plan or not console.confirm("Continue?", yes):
                        raise Declined
            except Declined:
                print("Nothing was changed.")
                return 0
        print(f"{self.done}.")
        if run is None:
            console.next_steps("palimpsest run")
            return 0
        if code := _run([*run, "--no-notes"]):  # the plan that was shown has them
            print(f"{self.done}; to go on with the run: palimpsest run")
            return code
        _show_after(params, before, concept_scores(params.study, params.report.identity))
        console.next_steps("palimpsest report   the whole study", "palimpsest export --help   use it in other programs")
        return 0

    def _check_before(self) -> None:
        """Checks what the user gave at its own path: an error must not name a copy that is deleted again."""
        from flows.engine.photo_check import check_new, contents, own_photos
        from stages.core.params import load

        if self.photos:
            folder, concept = self.photos
            name = concept.rpartition("/")[2]
            if self.fresh and not edit_params.is_name(name):
                raise ConfigFault(f"name {name!a}: use {edit_params.NAMES}.")
            if not folder.is_dir():
                raise ConfigFault(f"{folder}: is not a folder. Give the folder that contains the photos of {name}.")
            params = load()
            read, notes = check_new(folder, name, own_photos(params), params.prepare)
            self._print_notes(notes)
            for line in contents(folder, read):
                print(line)
        elif self.names:
            data = load().data
            for domain, name in self.names.items():
                data.check(domain, name, f"{name}: ")

    def _wanted(self, params: Params, before: Mapping[Key, ConceptScore], jobs: int) -> bool:
        """Shows the effect; returns whether there is any."""
        from flows.commands.plan import current_plan

        plan = current_plan(params, jobs)
        self._print_notes(plan.notes)
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
        return True

    def _print_notes(self, notes: list[str]) -> None:
        """Prints each note once."""
        from flows.engine.photo_check import print_notes

        print_notes(note for note in notes if note not in self._printed)
        self._printed.update(notes)

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """Makes the change; undoes it if an exception is raised, or in the next command after a kill."""
        try:
            before = edit_params.params_text()
            with reversible(before, after := self.edit(before)) as change:
                if self.photos:
                    _copy_photos(change, *self.photos, fresh=self.fresh)
                write_file(PARAMS, after)
                _move_old_photos(change)
                yield
        except ConfigFault as fault:
            raise _without_line(fault) from None


def added_before(names: Mapping[str, str], photos: tuple[Path, str] | None) -> bool:
    """Whether these concepts were added last, from the same photos, and the run that learns them has not ended.

    Args:
        names: the concepts by domain.
        photos: as for `Change`.
    """
    from stages.core.params import load

    params = load()
    last = params.tasks[-1].index
    if any(params.sequence(domain, order)[last] != names[domain] for domain in names for order in params.orders):
        return False
    scores = concept_scores(params.study, params.report.identity)
    if all((domain, strategy, name) in scores for domain, name in names.items() for strategy in params.strategies):
        return False
    if photos is None:
        return True
    source, copied = photos[0], _home(photos[1])
    return source.is_dir() and copied.is_dir() and folder_digest(source) == folder_digest(copied)


def _without_line(fault: ConfigFault) -> ConfigFault:
    """The fault without the line of params.yaml, which the user has never seen; or that of the user's own text.

    Raises:
        ConfigFault: params.yaml was wrong before.
    """
    from stages.core.params import load

    load()
    return ConfigFault(re.sub(rf"^{re.escape(str(PARAMS))}:\d+: ", "", str(fault)))


def _move_old_photos(change: Reversible) -> None:
    """Moves the prepared photos of deleted positions out of the study, where the base model would still sample them.

    DVC's cache still has them.
    """
    tree = edit_params.tree()
    known = {str(task["index"]) for task in tree["tasks"]}
    for folder in (RUNS / str(tree["study"])).glob("*/*/data/*"):
        if folder.name not in known:
            change.move_away(folder, LOCK.parent)


class Declined(Exception):
    """The user answered no."""


def _copy_photos(change: Reversible, source: Path, concept: str, fresh: bool) -> None:
    """Copies a folder of photos to the study's folder for this concept.

    Args:
        change: what it is part of.
        source: the folder.
        concept: DOMAIN/NAME.
        fresh: whether the concept is new.

    Raises:
        ConfigFault: the concept has photos already.
    """
    name, folder = concept.rpartition("/")[2], _home(concept)
    if source.resolve() == folder.resolve():
        raise ConfigFault(f"{source}: contains the photos of {name} already. Omit --photos.")
    if fresh and folder.exists():
        raise ConfigFault(f"{folder}: exists already. Omit --photos {source}, or delete one of the two folders.")
    if folder.exists():
        change.move_away(folder, Path(str(edit_params.tree()["source"])).parent)
    change.make(folder)
    try:
        with new_folder(folder) as draft:
            copy_folder(source, draft)
    except MachineFault as error:
        raise ConfigFault(f"{source}: cannot be copied to {folder}: {error.__cause__}.") from None


def _home(concept: str) -> Path:
    """The folder that has, or will have, the photos of a concept of the study, which is given as DOMAIN/NAME."""
    domain, _, name = concept.rpartition("/")
    root = Path(str(edit_params.tree().get("source", "")))
    return (root / domain if (root / domain).is_dir() and domain else root) / name


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
