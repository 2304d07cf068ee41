"""Runs a whole study side by side: every stage of dvc.yaml that is not up to date, each when what it needs is there.

`dvc repro` does the same, one stage after another. DVC's cache and dvc.lock are the only record: a study that was
killed goes on where it was when this is run again. Prefect shows what happens.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.engine import prefect_view
from flows.graph.remote import open_graph
from flows.graph.stage_names import StageName, last_stages
from stages.runtime.process import collect_rarely

if TYPE_CHECKING:
    from flows.engine.scheduler import Engine

Chosen = Callable[[argparse.Namespace], set[str] | None]
First = Callable[[argparse.Namespace], object]
ROOT = Path(".")
LOCK = Path(".cache", "flow", "lock")
log = logging.getLogger("palimpsest")


def nothing(_: object) -> None:
    return None


def command(
    doc: str | None,
    work: Callable[[argparse.Namespace], int],
    options: Callable[[argparse.ArgumentParser], object] = nothing,
) -> None:
    """The command line of every flow.

    Args:
        work: does what it says, and returns the exit code.
        options: adds what only this flow has.
    """
    collect_rarely()
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser)
    parser.add_argument("--jobs", type=int, help="stages at a time; default: one per GPU, or per core")
    parser.add_argument("--devices", help="GPUs to use, as in CUDA_VISIBLE_DEVICES; with more jobs they are shared")
    parser.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    parser.add_argument(
        "--share", action="store_true", help="take what DVC's remote has, and give it what is made here"
    )
    parser.add_argument("--no-view", action="store_true", help="don't report to Prefect")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    from stages.runtime.faults import Fault

    try:
        code = work(args)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        code = fault.code
    except KeyboardInterrupt:
        print("error: interrupted. Run the same command again to go on.", file=sys.stderr)
        code = 130
    prefect_view.exit_process(code)


def perform(args: argparse.Namespace, chosen: Chosen, first: First = nothing) -> int:
    """Brings stages up to date, alone in this workspace, and returns the exit code.

    Args:
        chosen: says which stages, or None for all; what they need is upstream of them.
        first: is done before the study is looked at.

    Raises:
        Fault: it cannot begin.
    """
    from flows.graph.up_to_date import untouched
    from stages.runtime.process import lock

    with lock(LOCK):
        first(args)
        if not args.share and untouched(ROOT.absolute()):
            print("Nothing to do: everything is up to date.")
            return 0
        from stages.core.params import load

        load()  # first, for what is wrong with params.yaml
        return Study(args).run(chosen(args))


class Study:
    """One run of the flow, with or without Prefect showing it."""

    def __init__(self, args: argparse.Namespace) -> None:
        from flows.engine.pool import slots
        from stages.tools.forecasting.durations import Times

        self.args, self.root = args, ROOT.absolute()
        self.slots, self.times = slots(args.jobs, args.devices), Times(self.root)
        self.graph = open_graph(self.root, share=args.share)

    def run(self, among: set[str] | None) -> int:
        from flows.graph.up_to_date import paths_of, stamp

        wanted = None if among is None else self.graph.with_upstream(among)
        plan = self.graph.plan(wanted)
        if not plan:
            print("Nothing to do: everything is up to date.")
        else:
            self._announce(plan, len(self.graph.stages) if wanted is None else len(wanted))
        if self.args.plan:
            return 0
        code = 0
        if plan:
            with self.graph.claimed():
                code = self._perform(plan)
        self.graph.give(self.graph.stages if wanted is None else wanted)
        if code == 0 and wanted is None:
            if plan:
                self._finish()
            stamp(self.root, paths_of(self.graph.stages.values(), self.root))
        return code

    def _announce(self, plan: list[str], all_stages: int) -> None:
        from flows.engine.estimate import Estimate
        from stages.core.params import load
        from stages.runtime.formatting import duration, size

        found = Estimate.of(self.graph, plan, self.times, load())
        free = shutil.disk_usage(self.root).free
        where = f"{self.slots.jobs} at a time" + (f" on {', '.join(self.slots.devices)}" if self.slots.devices else "")
        print(f"{len(plan)} of {all_stages} stages to bring up to date: {found.to_run} to run, {found.cached} cached.")
        print(f"{where}: about {duration(found.seconds / self.slots.jobs)}.", end=" ")
        print(f"About {size(found.bytes)} of disk; {size(free)} are free.", flush=True)
        if found.bytes > free:
            log.warning("There may be too little disk. Finished stages are kept: make room, and run it again.")
        if self.args.plan:
            print(*(f"  {StageName.parse(name).title}" for name in plan), sep="\n")

    def _perform(self, plan: list[str]) -> int:
        """Runs the plan in workers, and says how it went."""
        from flows.engine.pool import Pool
        from flows.engine.scheduler import Engine

        pool = Pool(self.slots)
        engine = Engine(self.graph, pool, self.times)

        def stop(*_: object) -> None:
            engine.stopping.set()
            for worker in pool.workers:
                worker.stop()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            return self._run_watched(engine, plan)
        finally:
            signal.signal(signal.SIGTERM, before)
            pool.stop()
            self.times.save()

    def _run_watched(self, engine: Engine, plan: list[str]) -> int:
        from flows.engine.prefect_run import under_prefect
        from flows.engine.progress_bars import draw_bars
        from flows.engine.stage_log import StageLog
        from stages.core.params import load

        stage_log = StageLog(plan, self.times, self.slots.jobs)
        with draw_bars(engine.progress, stage_log.named):
            if self.args.no_view:
                outcome = engine.run(plan, in_a_thread, stage_log)
            else:
                outcome = under_prefect(self.root, load().study, engine, plan, stage_log)
        return stage_log.end(outcome)

    def _finish(self) -> None:
        from flows.graph.graph import unfinished
        from stages.runtime.faults import MachineFault

        left = unfinished(self.root)
        if left:
            raise MachineFault(
                f"dvc status still names {', '.join(left[:3])}: was something changed meanwhile? Run again."
            )


def in_a_thread(work: Callable[[str], object], name: str) -> None:
    threading.Thread(target=work, args=(name,), name=name, daemon=True).start()


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        text = "DOMAIN/ORDER/STRATEGY/SEED: one run alone; DOMAIN/ORDER: the base model on it"
        parser.add_argument("run", nargs="?", metavar="RUN", help=text)

    command(__doc__, lambda args: perform(args, lambda args: last_stages(args.run) if args.run else None), options)


if __name__ == "__main__":
    main()
