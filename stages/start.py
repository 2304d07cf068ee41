"""Writes the first state of a run: the base, with the adapter of base.options.adapter if one is set.

Reads that adapter; writes the state and an empty table of references at position 00, and the hash of the strategy's
code, on which training and merging depend.
"""

import argparse

from stages.adapters.storage import save_state
from stages.core.command import main
from stages.core.params import Params
from stages.core.runs import CODE, Run, provenance
from stages.core.states import initial_state
from stages.core.strategy import code_of
from stages.files import artifact, tables
from stages.files.writing import write_file


def start(params: Params, run: Run, args: argparse.Namespace) -> None:
    """Publishes the state and scores before the first task.

    Raises:
        InputFault: base.options.adapter is missing, damaged or not the pinned one.
        ConfigFault: train.rank is too small for it.
    """
    state = initial_state(params, run)
    facts = provenance(params, run) | {"position": 0, "tasks": []}
    if params.family.adapter:
        facts["begun_with"] = params.family.adapter_revision
    with artifact.publish(run.at("00") / "scores", "scores", facts) as draft:
        tables.write(draft / "references.parquet", tables.REFERENCES, {name: [] for name in tables.REFERENCES.names})
    with artifact.publish(run.at("00") / "state", "state", facts) as draft:
        draft.note(save_state(draft.path, state))
    code = code_of(params.plug_in(run.strategy)[0])
    write_file(run.at("00") / CODE, [artifact.to_json(code).encode()])


if __name__ == "__main__":
    main(__doc__, start, "run", task=False)
