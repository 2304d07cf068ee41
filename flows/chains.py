"""The stages of each run, in the order in which they need one another: a line per run, for what can go on side by side.

`python -m flows.chains | xargs -P 2 -L 1 dvc --wait-for-lock repro --single-item` runs them two at a time. Runs share
only what is read, once the photos are prepared; --single-item keeps each to its own stages, for DVC lets no two of its
processes look at the same stage at once.
"""

from stages.core.params import Params, load
from stages.core.runs import runs

VERBS = ("train", "merge", "sample", "score")


def chains(params: Params) -> list[list[str]]:
    """For each run the names of its stages in dvc.yaml, first to last."""
    return [
        [
            f"{verb}@{run.sequence.domain}-{run.sequence.order}-{run.strategy}-{run.seed}-task{place}"
            for place in range(len(params.tasks))
            for verb in VERBS
        ]
        for run in runs(params)
    ]


if __name__ == "__main__":
    for chain in chains(load()):
        print(*chain)
