"""The beginning of a run: the base unchanged, no scores yet. Reads nothing; writes state and scores at position 00."""

import argparse

from stages.core import artifact, tables
from stages.core.adapters import save_state
from stages.core.cli import main
from stages.core.params import Params
from stages.core.runs import Run
from stages.core.steps import provenance
from stages.core.strategy import State


def start(params: Params, run: Run, args: argparse.Namespace) -> None:
    facts = provenance(params, run) | {"position": 0, "tasks": []}
    with artifact.publish(run.at("00") / "scores", "scores", facts) as draft:
        tables.write(draft / "references.parquet", tables.REFERENCES, {name: [] for name in tables.REFERENCES.names})
    with artifact.publish(run.at("00") / "state", "state", facts) as draft:
        facts |= save_state(draft, State())


if __name__ == "__main__":
    main(__doc__, start, "run", task=False)
