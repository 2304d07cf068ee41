"""What a person at the terminal hears of a study: a line per stage, with the time left, and how it ended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from flows.engine.journal import Journal
from flows.graph.stage_names import StageName, titles
from stages.runtime.formatting import duration
from stages.tools.forecasting.durations import Times

if TYPE_CHECKING:
    from flows.engine.scheduler import Ended, Outcome


class StageLog:
    """Hears of every end."""

    def __init__(self, plan: list[str], times: Times, jobs: int) -> None:
        self.times, self.jobs, self.total = times, jobs, len(plan)
        self.left, self.done, self.began = Counter(map(_kind, plan)), 0, time.monotonic()
        self.journal = Journal.begin(self.total)
        self.named = titles(plan) if sys.stdout.isatty() else {}  # a log says the whole of it

    def __call__(self, ended: Ended) -> None:
        self.done += 1
        self.left[_kind(ended.name)] -= 1
        left = duration(sum(count * self.times.of(*kind) for kind, count in self.left.items()) / self.jobs)
        how = f"{ended.seconds:.1f} s" if ended.how == "ran" else ended.how
        name = self.named.get(ended.name) or _title(ended.name)
        line = f"[{self.done:{len(str(self.total))}}/{self.total}] {name}: {how}"
        print(f"{line} ({left} left)" if self.done < self.total else line, flush=True)
        self.journal.note(self.done, _title(ended.name), left)
        if ended.error:
            print(f"    {ended.error}", file=sys.stderr, flush=True)

    def rows(self, outcome: Outcome) -> list[dict[str, str]]:
        failed = [{"stage": _title(end.name), "what": end.error} for end in outcome.failures]
        skipped = outcome.skipped.items()
        return failed + [{"stage": _title(name), "what": f"skipped: it needs {_title(by)}"} for name, by in skipped]

    def end(self, outcome: Outcome) -> int:
        """Says how it all ended, and returns the exit code: the first failure's."""
        code = self._say(outcome)
        self.journal.end(code, self.rows(outcome))
        return code

    def _say(self, outcome: Outcome) -> int:
        ways = ("ran", "cached", "unchanged", "preempted", "failed")
        counts = [f"{outcome.count(way)} {way}" for way in ways if outcome.count(way)]
        if outcome.skipped:
            counts.append(f"{len(outcome.skipped)} skipped")
        print(f"{', '.join(counts) or 'nothing started'} in {duration(time.monotonic() - self.began)}.", flush=True)
        if not outcome.failures:
            if len(outcome.ended) < self.total:
                print("Stopped on request. Run the same command again to go on.", file=sys.stderr)
                return 75
            return 0
        for row in self.rows(outcome):
            print(f"  {row['stage']}: {row['what']}", file=sys.stderr)
        print("Finished stages are kept. Run the same command again to go on.", file=sys.stderr)
        return max(outcome.failures, key=lambda end: end.how == "failed").code


def _kind(name: str) -> tuple[str, int | None]:
    stage = StageName.parse(name)
    return stage.verb, stage.task


def _title(name: str) -> str:
    return StageName.parse(name).title
