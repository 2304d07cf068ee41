"""The beginning of a run: the base, or what base.options.adapter makes of it; no scores yet.

Reads that adapter, if there is one; writes state and scores at position 00.
"""

import argparse

from stages.adapters.storage import save_state
from stages.core.command import main
from stages.core.params import Params
from stages.core.runs import Run, provenance
from stages.core.states import beginning
from stages.files import artifact, tables


def start(params: Params, run: Run, args: argparse.Namespace) -> None:
    state = beginning(params, run.seed)
    facts = provenance(params, run) | {"position": 0, "tasks": []}
    if params.family.adapter:
        facts["begun_with"] = params.family.adapter_revision
    with artifact.publish(run.at("00") / "scores", "scores", facts) as draft:
        tables.write(draft / "references.parquet", tables.REFERENCES, {name: [] for name in tables.REFERENCES.names})
    with artifact.publish(run.at("00") / "state", "state", facts) as draft:
        draft.note(save_state(draft.path, state))


if __name__ == "__main__":
    main(__doc__, start, "run", task=False)
