"""Prints a line per finished stage with the remaining time, and a summary at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flows.engine.estimate import Clock, span
from flows.engine.journal import Journal
from flows.graph.stage_names import StageName, titles
from stages.runtime.formatting import counted, duration

if TYPE_CHECKING:
    from flows.engine.scheduler import Outcome, StageResult

EVERY_SECONDS = 5.0  # in a large study an estimate takes tenths of a second


class StageLog:
    """Prints and records the result of each stage; called by the engine when it ends."""

    def __init__(self, plan: list[str], clock: Clock) -> None:
        self.clock, self.total = clock, len(plan)
        self.done, self.began, self.unchanged = 0, time.monotonic(), 0
        self._estimated = self.began
        self.journal = Journal.begin(self.total)
        self.short = titles(plan)
        self.names = self.short if sys.stdout.isatty() else {}  # a log file gets the full ones

    def __call__(self, result: StageResult) -> None:
        self.done += 1
        if result.how == "unchanged":  # in one line at the end
            self.unchanged += 1
            self.journal.note(self.done, _title(result.name), self.journal.left)
            return
        left = self._left()
        how = f"{result.seconds:.1f} s" if result.how == "ran" else result.how
        name = self.names.get(result.name) or _title(result.name)
        line = f"[{self.done:{len(str(self.total))}}/{self.total}] {name}: {how}"
        print(f"{line} ({left} left)" if self.done < self.total else line, flush=True)
        self.journal.note(self.done, _title(result.name), left)
        if result.error:
            print(f"    {result.error}", file=sys.stderr, flush=True)

    def tick(self, progress: Mapping[str, tuple[int, int]]) -> None:
        """Records what runs now, and how long the rest takes; the engine calls it a few times a second."""
        now = time.monotonic()
        if now > self._estimated + EVERY_SECONDS:
            self.journal.left = self._left()
        began = {name: began for name in progress if (began := self.clock.began.get(name)) is not None}
        self.journal.tick(
            {self.short.get(name, _title(name)): [*progress[name], round(now - at)] for name, at in began.items()}
        )

    def _left(self) -> str:
        """The remaining time."""
        self._estimated = time.monotonic()
        return span(self.clock.remaining())

    def rows(self, outcome: Outcome) -> list[dict[str, str]]:
        """A row with `stage` and `what` for each stage that failed, and one for all that were skipped because of it."""
        failed = [{"stage": _title(result.name), "what": result.error} for result in outcome.failures]
        skipped = Counter(outcome.skipped.values()).items()
        return failed + [
            {"stage": counted(count, "stage"), "what": f"skipped, because of {_title(by)}"} for by, count in skipped
        ]

    def end(self, outcome: Outcome) -> int:
        """Prints a summary, completes the journal, and returns the exit code: that of the first failure, or 0."""
        self._print_summary(outcome)
        code = outcome.code(self.total)
        self.journal.end(code, self.rows(outcome))
        return code

    def _print_summary(self, outcome: Outcome) -> None:
        if self.unchanged:
            print(f"{counted(self.unchanged, 'stage')} checked: the same inputs, so nothing to compute.", flush=True)
        ends = ("ran", "cached", "unchanged", "preempted", "failed")
        counts = [f"{outcome.count(how)} {how}" for how in ends if outcome.count(how)]
        if outcome.saved:
            counts.append(f"{counted(len(outcome.saved), 'training')} stopped and saved")
        if outcome.skipped:
            counts.append(f"{len(outcome.skipped)} skipped")
        print(f"{', '.join(counts) or 'nothing started'} in {duration(time.monotonic() - self.began)}.", flush=True)
        if not outcome.failures:
            if len(outcome.results) < self.total:
                print("Stopped on request. Run the same command again to continue.", file=sys.stderr)
            return
        for row in self.rows(outcome):
            print(f"  {row['stage']}: {row['what']}", file=sys.stderr)
        print("Finished stages are saved. Run the same command again to continue.", file=sys.stderr)


def _title(name: str) -> str:
    return StageName.parse(name).title
