"""Estimates GPU-hours, disk and memory of a study: `python -m stages.tools.forecast --profile quick`.

Counts the work from the parameters and measures a few training steps, pictures, scores and merges on this device.
The interval is that of the individual measurements. For stages of this study that have already run here, the measured
times are used. Writes no results; `palimpsest plan` uses the same measurements from then on. With --card no GPU is
needed: nothing is measured, but figures of that GPU are used, with an interval of a tenth more and less.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import main
from stages.files import artifact
from stages.runtime.faults import ConfigFault

if TYPE_CHECKING:
    from stages.core.params import Params


STEPS = 12  # that are measured


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="NAME", help="use this profile instead of params.yaml")
    parser.add_argument("--memory", metavar="GB", help="the profile's settings for a GPU of 12, 16, 24 or 80 GB")
    steps = f"training steps to measure (default: {STEPS})"
    parser.add_argument("--steps", type=int, metavar="N", help=steps)
    parser.add_argument("--card", metavar="NAME", help="use figures measured on this GPU (data/performance), as H200")
    parser.add_argument("--counts", action="store_true", help="count only, without measuring")
    parser.add_argument("--json", action="store_true", help="print JSON")


def forecast(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.tools import profiles
    from stages.tools.forecasting.calibration import calibrate
    from stages.tools.forecasting.cards import of_card
    from stages.tools.forecasting.durations import Times, save_costs
    from stages.tools.forecasting.forecast import facts, summary
    from stages.tools.forecasting.workload import count

    steps = STEPS if args.steps is None else args.steps
    if steps < 1:
        raise ConfigFault(f"--steps {steps}: must be at least 1.")
    if args.card and args.counts:
        raise ConfigFault("--card and --counts: give one of them.")
    if args.steps is not None and (args.card or args.counts):
        raise ConfigFault(f"--steps {steps}: with --{'card' if args.card else 'counts'} nothing is measured. Omit it.")
    times = None if args.profile or args.card else Times(Path.cwd(), params)
    if args.profile:
        params = profiles.params(args.profile, args.memory)
    elif args.memory:
        raise ConfigFault("--memory: give --profile, too; a study has its settings in params.yaml.")
    work = count(params)
    measured = of_card(params, args.card) if args.card else None
    calibration = measured or (None if args.counts else calibrate(params, steps))
    if calibration and not measured and not args.profile:
        save_costs(params, {part: cost.each for part, cost in calibration.costs.items()})
    if args.json:
        print(artifact.to_json(facts(params, work, calibration, times)).strip())
    else:
        print(summary(params, work, calibration, times))


if __name__ == "__main__":
    main(__doc__, forecast, None, more=arguments)
