"""Runs a study: every stage of dvc.yaml that is not up to date, several in parallel.

`dvc repro` does the same, one stage after another. DVC's cache and dvc.lock are the only record: run the command again
after a kill and the study continues. Prefect shows its progress.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.engine import prefect_view
from flows.engine.pool import end_now
from flows.graph.stage_names import StageName, last_stages
from stages.runtime.arguments import Parser
from stages.runtime.environment import check_code
from stages.runtime.exits import attempt
from stages.runtime.faults import Preempted
from stages.runtime.process import collect_rarely

if TYPE_CHECKING:
    from flows.engine.order.slots import Slots
    from flows.engine.planning import Plan
    from flows.engine.scheduler import Engine
    from stages.core.params import Params

Select = Callable[[argparse.Namespace], set[str] | None]
Preparation = Callable[[argparse.Namespace], object]
ROOT = Path(".")
log = logging.getLogger("palimpsest")


def nothing(_: object) -> None:
    """Does nothing; as a selection: all stages."""


def command(
    doc: str | None,
    work: Callable[[argparse.Namespace], int],
    options: Callable[[argparse.ArgumentParser], object] = nothing,
) -> None:
    """Parses a flow's command line, runs it, and exits.

    Args:
        doc: the help text.
        work: runs the flow with the parsed arguments and returns the exit code.
        options: adds arguments that only this flow has.
    """
    collect_rarely()
    parser = Parser(description=doc)
    options(parser)
    parser.add_argument("--jobs", type=int, metavar="N", help="stages at a time; default: one per GPU, or per core")
    parser.add_argument("--devices", help="GPUs to use, as in CUDA_VISIBLE_DEVICES; shared if there are more jobs")
    parser.add_argument(
        "--together", type=int, metavar="N", help="trainings in one batch; default: 6 on CPUs, 1 on GPUs"
    )
    parser.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    parser.add_argument("--share", action="store_true", help="exchange results with DVC's remote")
    parser.add_argument("--no-view", action="store_true", help="don't report to Prefect")
    parser.add_argument("--no-notes", action="store_true", help="print neither notes nor the next command")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)

    def checked() -> int:
        check_code()
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            return work(args)
        finally:
            signal.signal(signal.SIGTERM, before)

    prefect_view.exit_process(attempt(checked))


def _stop(*_: object) -> None:
    """Handles SIGTERM where no stage runs: there is nothing to save, and an exception might come in the middle of an
    import. While stages run, they save first (see `Interrupts`)."""
    end_now("stopped on request", Preempted.code)


def perform(args: argparse.Namespace, select: Select, prepare: Preparation = nothing) -> int:
    """Updates stages while holding the workspace's lock.

    Args:
        args: the options of `command`.
        select: the stages to update with everything upstream of them; None: all stages.
        prepare: called before the study is read.

    Returns:
        The exit code.

    Raises:
        Fault: the run cannot start.
    """
    from flows.graph.up_to_date import untouched
    from stages.files.undo import locked

    with locked():
        prepare(args)
        among = select(args)
        if not args.share and untouched(ROOT.absolute()):
            if (args.jobs, args.devices, _together(args)) != (None, None, None):
                from stages.core.params import load

                _slots(args, load())  # refuses what is impossible
            print("Nothing to do: everything is up to date.")
            return 0
        return Study(args).run(among)


def _slots(args: argparse.Namespace, params: Params) -> tuple[Slots, int]:
    """The slots, and how many trainings share a batch at most. Raises ConfigFault: the options are impossible."""
    from flows.engine.order.groups import limit
    from flows.engine.order.slots import slots_of

    found = slots_of(params, args.jobs, args.devices)
    return found, limit(_together(args), found)


def _together(args: argparse.Namespace) -> int | None:
    return getattr(args, "together", None)  # deployments have no such parameter


class Study:
    """One run of the flow, with or without Prefect."""

    def __init__(self, args: argparse.Namespace) -> None:
        from flows.graph.remote import open_graph
        from stages.core.params import load
        from stages.tools.forecasting.durations import Times

        self.args, self.root, self.params = args, ROOT.absolute(), load()
        self.slots, self.at_most = _slots(args, self.params)
        self.times = Times(self.root, self.params)
        self.graph = open_graph(self.root, share=args.share)

    def run(self, among: set[str] | None) -> int:
        """Updates these stages and everything upstream of them, or all stages; returns the exit code."""
        from flows.engine.planning import make_plan
        from flows.graph.up_to_date import paths_of, stamp

        wanted = None if among is None else self.graph.with_upstream(among)
        plan = make_plan(self.graph, self.params, self.times, self.slots.jobs, wanted)
        if not plan.stages:
            print("Nothing to do: everything is up to date.")
        else:
            self._announce(plan)
        if self.args.plan:
            return 0
        code = 0
        if plan.stages:
            with self.graph.locked():
                code = self._perform(plan)
        self.graph.upload(self.graph.stages if wanted is None else wanted)
        if code == 0 and wanted is None:
            if plan.stages:
                self._finish()
            stamp(self.root, paths_of(self.graph.stages.values(), self.root))
        return code

    def _announce(self, plan: Plan) -> None:
        from flows.engine.photo_check import print_notes
        from stages.runtime.formatting import size

        free = shutil.disk_usage(self.root).free
        if not self.args.no_notes:
            print_notes(plan.notes)
        print(plan.sentence())
        where = f"On {', '.join(self.slots.devices)}. " if self.slots.devices else ""
        print(f"{where}About {size(plan.bytes)} of disk; {size(free)} are free.", flush=True)
        if plan.bytes > free:
            log.warning("Disk space may run out. Finished stages are saved: free some space and run it again.")
        if self.args.plan:
            print(*(f"  {StageName.parse(name).title}" for name in plan.changed), sep="\n")

    def _perform(self, plan: Plan) -> int:
        """Runs the plan in workers; returns the exit code."""
        from flows.engine.order.groups import Groups, alike_in
        from flows.engine.order.room import Room, save_peaks, saved_peaks
        from flows.engine.pool import Pool
        from flows.engine.scheduler import Engine

        pool = Pool(self.slots)
        room = Room(self.slots, plan.to_run, saved_peaks(self.times.settings))
        if self.at_most > 1:
            room.close()  # what a batch needs is not measured
        engine = Engine(self.graph, pool, plan.clock, Groups(alike_in(self.params), self.at_most), room)
        with engine.interrupts.handled():
            try:
                return self._run_watched(engine, plan)
            finally:
                pool.stop()
                self.times.save()
                save_peaks(self.times.settings, room.peaks)

    def _run_watched(self, engine: Engine, plan: Plan) -> int:
        from flows.engine.prefect_run import run_with_prefect
        from flows.engine.progress_bars import draw_bars
        from flows.engine.scheduler import in_a_thread
        from flows.engine.stage_log import StageLog

        stage_log = StageLog(plan.stages, plan.clock)
        with draw_bars(engine, stage_log):
            if self.args.no_view:
                outcome = engine.run(plan.stages, in_a_thread, stage_log, stage_log.tick)
            else:
                outcome = run_with_prefect(self.root, self.params.study, engine, plan.stages, stage_log)
        return stage_log.end(outcome)

    def _finish(self) -> None:
        from flows.graph.graph import outdated
        from stages.runtime.faults import MachineFault

        stages = outdated(self.root)
        if stages:
            raise MachineFault(
                f"dvc status still lists {', '.join(stages[:3])}: files were changed during the run. Run it again."
            )
        if not self.args.no_notes:
            print("Next: palimpsest report   the result")


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        text = "DOMAIN/ORDER/STRATEGY/SEED or a strategy: only this run; DOMAIN/ORDER: only the base model on it"
        parser.add_argument("run", nargs="?", metavar="RUN", help=text)

    command(__doc__, lambda args: perform(args, lambda args: last_stages(args.run) if args.run else None), options)


if __name__ == "__main__":
    main()
