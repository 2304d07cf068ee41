"""Whether a faster way of sampling changes anything that is measured: python -m tests.bench.acceptance EXACT FASTER

Both are folders of runs of the same study (runs/<study>), sampled in two ways, for example in float32 and in bfloat16.
Pictures are paired by run, state, task, prompt and noise. Nothing has changed where, for each metric, the mean score
moves by less than 0.002, and by less than a fifth of the standard deviation between seeds. At least three states with
400 pictures each have to be compared for that to be said.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.core import tables

MOST, SHARE = 0.002, 0.2  # of a score; of the deviation between seeds
STATES, PICTURES = 3, 400
Key = tuple[str, ...]  # domain, order, strategy, seed; state; task, prompt, noise


@dataclass(frozen=True)
class Verdict:
    metric: str
    shift: float  # of the mean, faster - exact
    between_seeds: float | None  # standard deviation of the mean between seeds; None where there is one seed only
    states: int
    pictures: int  # of the state with the fewest

    @property
    def enough(self) -> bool:
        return self.states >= STATES and self.pictures >= PICTURES

    @property
    def unchanged(self) -> bool:
        limit = MOST if self.between_seeds is None else min(MOST, SHARE * self.between_seeds)
        return self.enough and abs(self.shift) < limit


def judge(metric: str, exact: Mapping[Key, float], faster: Mapping[Key, float]) -> Verdict:
    """
    Raises:
        ValueError: the two do not hold the same pictures, so that they cannot be paired.
    """
    if exact.keys() != faster.keys():
        raise ValueError(f"{metric}: {len(exact.keys() ^ faster.keys())} pictures are in one of the two only")
    counts: dict[Key, int] = {}
    by_seed: dict[Key, dict[str, list[float]]] = {}
    for key, value in exact.items():
        counts[key[:5]] = counts.get(key[:5], 0) + 1
        by_seed.setdefault(key[:3], {}).setdefault(key[3], []).append(value)
    spreads = [
        statistics.stdev(statistics.fmean(values) for values in seeds.values())
        for seeds in by_seed.values()
        if len(seeds) > 1
    ]
    shift = statistics.fmean(faster[key] - value for key, value in exact.items())
    between = statistics.fmean(spreads) if spreads else None
    return Verdict(metric, shift, between, len(counts), min(counts.values()))


def scores(study: Path) -> dict[str, dict[Key, float]]:
    """Of each metric the score of every picture under a folder of runs."""
    found: dict[str, dict[Key, float]] = {}
    for path in sorted(study.glob("*/*/*/*/*/scores/scores.parquet")):
        domain, order, strategy, seed, state = path.relative_to(study).parts[:5]
        for row in tables.read(path, tables.SCORES).to_pylist():
            key = (domain, order, strategy, seed, state, *(str(row[name]) for name in ("task", "prompt", "noise")))
            found.setdefault(row["metric"], {})[key] = row["score"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exact", type=Path)
    parser.add_argument("faster", type=Path)
    args = parser.parse_args()
    exact, faster = scores(args.exact), scores(args.faster)
    if not exact or exact.keys() != faster.keys():
        print(f"error: {args.exact} and {args.faster} hold no scores of the same metrics", file=sys.stderr)
        return 3
    verdicts = [judge(metric, exact[metric], faster[metric]) for metric in sorted(exact)]
    for found in verdicts:
        seeds = "one seed" if found.between_seeds is None else f"{found.between_seeds:.4f} between seeds"
        word = "unchanged" if found.unchanged else "CHANGED" if found.enough else "too few to tell"
        print(f"{found.metric:8} {found.shift:+.5f} ({seeds}), {found.states} x {found.pictures} pictures: {word}")
    return 0 if all(found.unchanged for found in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
