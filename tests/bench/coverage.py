"""The full simulation of coverage and false alarms: the tables of docs/statistics.md.

python -m tests.bench.coverage --repetitions 10000
"""

import argparse

import numpy as np

from stages.evaluation.correction import holm
from stages.evaluation.crossed import estimate
from stages.evaluation.results import Results
from stages.evaluation.statistics import FACTORS, table_of
from tests.support.simulated.studies import (
    DESIGNS,
    STRESS,
    alarms,
    differences,
    forgotten,
    percentile_bootstrap,
    studies,
)
from tests.support.simulated.survey import coverage

BLOCK = 500  # studies at a time
FAMILIES = ("skewed", "skewed, in the paper's", "order x concept")  # in addition to DESIGNS
LOST = 1.0  # as much as single pictures vary by chance


def share(outside: list[np.ndarray]) -> float:
    return float(np.concatenate(outside).mean())


def intervals(repetitions: int) -> None:
    """Coverage of a difference whose truth is 0, by the percentile bootstrap and by the crossed variance."""
    print("| design | percentile bootstrap | crossed |\n| --- | ---: | ---: |")
    for name, design in (DESIGNS | STRESS).items():
        bootstrap, crossed = [], []
        for block in range(repetitions // BLOCK):
            crossed.append(alarms(studies(design, BLOCK, block), "average_score"))
            if block < repetitions // BLOCK // 5:  # the bootstrap is much slower
                bootstrap.append(percentile_bootstrap(differences(design, BLOCK, block)))
        print(f"| {name} | {1 - share(bootstrap):.3f} | {1 - share(crossed):.3f} |", flush=True)


def families(repetitions: int) -> None:
    """Studies of four equal strategies with any false alarm among their six pairs, before and after the correction."""
    print("\n| design | any pair, uncorrected | corrected |\n| --- | ---: | ---: |")
    for name, design in (DESIGNS | {name: STRESS[name] for name in FAMILIES}).items():
        raw, corrected = [], []
        for block in range(repetitions // BLOCK // 5):
            four = differences(design, 4 * BLOCK, block).reshape(BLOCK, 4, *design.levels)
            pairs = [estimate(four[:, b] - four[:, a], FACTORS, 0.95).p for a in range(4) for b in range(a + 1, 4)]
            p = np.stack(pairs, 1)
            raw.append((p <= 0.05).any(1))
            corrected.append(np.array([min(holm(dict(enumerate(row))).values()) <= 0.05 for row in p]))
        print(f"| {name} | {share(raw):.3f} | {share(corrected):.3f} |", flush=True)


def forgetting(repetitions: int) -> None:
    """Coverage of 0, and the mean, where nothing is forgotten; and the mean where LOST is."""
    print(f"\n| measure | coverage | mean | mean where {LOST:g} is forgotten |\n| --- | ---: | ---: | ---: |")
    for measure in ("forgetting_unbiased", "backward_transfer", "forgetting"):
        outside, means, after_loss = [], [], []
        for block in range(repetitions // BLOCK // 5):
            results = forgotten(BLOCK, seed=block)
            outside.append(alarms(results, measure))
            means.append(means_of(results, measure))
            after_loss.append(means_of(forgotten(BLOCK, LOST, seed=block), measure))
        print(f"| {measure} | {1 - share(outside):.3f} | {share(means):.3f} | {share(after_loss):.3f} |", flush=True)


def means_of(results: Results, measure: str) -> np.ndarray:
    return estimate(table_of(results, "m", measure), FACTORS, 0.95).value


def people(repetitions: int) -> None:
    """Coverage of the strategies' positions on the scale of Bradley and Terry."""
    print("\n| raters x comparisons each | variation of raters, pictures | over raters only | crossed |")
    print("| --- | --- | ---: | ---: |")
    for raters, each in ((8, 30), (20, 30), (20, 60)):
        for spread in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.7), (0.5, 0.7)):
            only, crossed = coverage(max(40, repetitions // 20), raters, each, *spread)
            print(f"| {raters} x {each} | {spread[0]}, {spread[1]} | {only:.3f} | {crossed:.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=10_000)
    chosen = parser.parse_args().repetitions
    for part in (intervals, families, forgetting, people):
        part(chosen)
