"""Whether a faster way of sampling changes any score: python -m tests.bench.acceptance EXACT FASTER

Both are folders of runs of the same study (runs/<study>), sampled in two ways, for example in float32 and in float16.
Pictures are paired by run, state, task, prompt and noise. Every state with at least 400 pictures is judged by itself,
so that opposite shifts do not cancel; at least three such states are needed. The verdict is "unchanged" if, for each
metric, the mean score of each state moves by less than 0.002 and by less than a fifth of its standard deviation between
seeds. With only one seed that deviation, and so the verdict, is unknown.
Exit code 0: unchanged, 1: changed or unknown, 3: the folders cannot be compared.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.files import tables

LIMIT, SHARE = 0.002, 0.2  # of a mean score; of its standard deviation between seeds
STATES, PICTURES = 3, 400
Key = tuple[str, ...]  # domain, order, strategy, seed; state; task, prompt, noise


@dataclass(frozen=True)
class Verdict:
    """Whether one metric's scores have changed."""

    metric: str
    shifts: Mapping[Key, float]  # of the mean score of each state with enough pictures, faster - exact
    between_seeds: float | None  # standard deviation of these means between seeds; None if there is only one seed
    skipped: int  # states with too few pictures

    @property
    def largest(self) -> float:
        return max(self.shifts.values(), key=abs, default=math.nan)

    @property
    def word(self) -> str:
        limit = LIMIT if self.between_seeds is None else min(LIMIT, SHARE * self.between_seeds)
        if not all(shift == 0 or abs(shift) < limit for shift in self.shifts.values()):
            return "CHANGED"
        if len(self.shifts) < STATES:
            return "too few to tell"
        return "unknown: there is only one seed" if self.between_seeds is None else "unchanged"

    def __str__(self) -> str:
        seeds = "one seed" if self.between_seeds is None else f"{self.between_seeds:.5f} between seeds"
        judged = f"{len(self.shifts)} states of {PICTURES} pictures or more"
        others = f" ({self.skipped} with fewer skipped)" if self.skipped else ""
        return f"{self.metric:8} at most {self.largest:+.5f} ({seeds}), {judged}{others}: {self.word}"


def judge(metric: str, exact: Mapping[Key, float], faster: Mapping[Key, float]) -> Verdict:
    """Compares the scores of pictures that were sampled in two ways.

    Raises:
        ValueError: they are not scores of the same pictures.
    """
    if exact.keys() != faster.keys():
        raise ValueError(f"{metric}: {len(exact.keys() ^ faster.keys())} pictures are in only one of the two")
    states: dict[Key, list[Key]] = {}
    for key in exact:
        states.setdefault(key[:5], []).append(key)
    judged = {state: keys for state, keys in states.items() if len(keys) >= PICTURES}
    shifts = {state: statistics.fmean(faster[key] - exact[key] for key in keys) for state, keys in judged.items()}
    by_seed: dict[Key, list[float]] = {}
    for (*run, _, state), keys in judged.items():
        by_seed.setdefault((*run, state), []).append(statistics.fmean(exact[key] for key in keys))
    spreads = [statistics.stdev(means) for means in by_seed.values() if len(means) > 1]
    between = statistics.fmean(spreads) if spreads else None
    return Verdict(metric, shifts, between, len(states) - len(judged))


def scores(study: Path) -> dict[str, dict[Key, float]]:
    """The score of every picture in a folder of runs, by metric."""
    by_metric: dict[str, dict[Key, float]] = {}
    for path in sorted(study.glob("*/*/*/*/*/scores/scores.parquet")):
        domain, order, strategy, seed, state = path.relative_to(study).parts[:5]
        for row in tables.read(path, tables.SCORES).to_pylist():
            key = (domain, order, strategy, seed, state, *(str(row[name]) for name in ("task", "prompt", "noise")))
            by_metric.setdefault(row["metric"], {})[key] = row["score"]
    return by_metric


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exact", type=Path)
    parser.add_argument("faster", type=Path)
    args = parser.parse_args()
    exact, faster = scores(args.exact), scores(args.faster)
    if not exact or exact.keys() != faster.keys():
        print(f"error: {args.exact} and {args.faster} have no scores of the same metrics", file=sys.stderr)
        return 3
    verdicts = [judge(metric, exact[metric], faster[metric]) for metric in sorted(exact)]
    for verdict in verdicts:
        print(verdict)
    return 0 if all(verdict.word == "unchanged" for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
