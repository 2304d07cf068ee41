"""Whether a faster way of sampling changes anything that is measured: python -m tests.bench.acceptance EXACT FASTER

Both are folders of runs of the same study (runs/<study>), sampled in two ways, for example in float32 and in float16.
Pictures are paired by run, state, task, prompt and noise. Every state of which there are 400 pictures or more is judged
by itself, so that opposite shifts do not cancel; three such states at least are needed. Nothing has changed where, for
each metric, the mean score of each of them moves by less than 0.002, and by less than a fifth of the standard deviation
of such a mean between seeds. Of one seed alone that deviation is unknown, and so is the answer.
Exit code 0: unchanged, 1: changed or not known, 3: the folders cannot be compared.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.files import tables

MOST, SHARE = 0.002, 0.2  # of a score; of the deviation between seeds
STATES, PICTURES = 3, 400
Key = tuple[str, ...]  # domain, order, strategy, seed; state; task, prompt, noise


@dataclass(frozen=True)
class Verdict:
    metric: str
    shifts: Mapping[Key, float]  # of the mean of each state that has enough pictures, faster - exact
    between_seeds: float | None  # standard deviation of those means between seeds; None where there is one seed only
    left_out: int  # states with too few pictures

    @property
    def largest(self) -> float:
        return max(self.shifts.values(), key=abs, default=math.nan)

    @property
    def word(self) -> str:
        limit = MOST if self.between_seeds is None else min(MOST, SHARE * self.between_seeds)
        if not all(shift == 0 or abs(shift) < limit for shift in self.shifts.values()):
            return "CHANGED"
        if len(self.shifts) < STATES:
            return "too few to tell"
        return "unknown: one seed cannot say what seeds change" if self.between_seeds is None else "unchanged"

    def __str__(self) -> str:
        seeds = "one seed" if self.between_seeds is None else f"{self.between_seeds:.5f} between seeds"
        judged = f"{len(self.shifts)} states of {PICTURES} pictures or more"
        others = f" ({self.left_out} of fewer left out)" if self.left_out else ""
        return f"{self.metric:8} at most {self.largest:+.5f} ({seeds}), {judged}{others}: {self.word}"


def judge(metric: str, exact: Mapping[Key, float], faster: Mapping[Key, float]) -> Verdict:
    """
    Raises:
        ValueError: the two do not hold the same pictures, so that they cannot be paired.
    """
    if exact.keys() != faster.keys():
        raise ValueError(f"{metric}: {len(exact.keys() ^ faster.keys())} pictures are in one of the two only")
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
        print(found)
    return 0 if all(found.word == "unchanged" for found in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
