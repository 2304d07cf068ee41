"""Estimates GPU-hours, disk and memory of a study: `python -m stages.tools.forecast --profile quick`.

Counts what the parameters ask for, and measures a few training steps, pictures, scores and merges on this device. The
spread is that of the single measurements. Nothing of the study is written.
"""

from __future__ import annotations

import argparse
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
    from stages.tools.forecasting.forecast import facts, words
    from stages.tools.forecasting.workload import count

    if args.steps < 1:
        raise ConfigFault(f"--steps {args.steps}: at least 1.")
    if args.profile:
        params = profiles.params(args.profile)
    work = count(params)
    found = None if args.counts else calibrate(params, args.steps)
    print(artifact.to_json(facts(params, work, found)).strip() if args.json else words(params, work, found))


if __name__ == "__main__":
    main(__doc__, forecast, None, more=arguments)
