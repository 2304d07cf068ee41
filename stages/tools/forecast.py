"""Estimates GPU-hours, disk and memory of a study: `python -m stages.tools.forecast --profile quick`.

Counts what the parameters ask for, and measures a few training steps, pictures, scores and merges on this device. The
spread is that of the single measurements. Stages of this study that have run here count with the time that they took.
Nothing of the study is written; `palimpsest plan` goes by the same numbers from then on.
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


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="NAME", help="of this profile instead of params.yaml")
    parser.add_argument("--steps", type=int, default=12, metavar="N", help="training steps to measure (default: 12)")
    parser.add_argument("--counts", action="store_true", help="count only, measure nothing")
    parser.add_argument("--json", action="store_true", help="as JSON")


def forecast(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.tools import profiles
    from stages.tools.forecasting.calibration import calibrate
    from stages.tools.forecasting.durations import Times, save_costs
    from stages.tools.forecasting.forecast import facts, words
    from stages.tools.forecasting.workload import count

    if args.steps < 1:
        raise ConfigFault(f"--steps {args.steps}: at least 1.")
    times = None if args.profile else Times(Path.cwd())
    if args.profile:
        params = profiles.params(args.profile)
    work = count(params)
    found = None if args.counts else calibrate(params, args.steps)
    if found and not args.profile:
        save_costs(params, {part: cost.each for part, cost in found.costs.items()})
    print(
        artifact.to_json(facts(params, work, found, times)).strip() if args.json else words(params, work, found, times)
    )


if __name__ == "__main__":
    main(__doc__, forecast, None, more=arguments)
