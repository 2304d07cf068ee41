"""Runs the study of the current folder in one process: `python -m tests.support.run_study`."""

import importlib
from argparse import Namespace
from pathlib import Path

from stages.adapters.storage import delta_fingerprint
from stages.core import params
from stages.core.runs import runs, sequences
from stages.core.states import rebuilt_state, state_after

VERBS = ("prepare", "start", "train", "merge", "sample", "score")


def run_all(study: params.Params, until: str = VERBS[-1]) -> None:
    """Runs every stage except the report, or those up to a verb."""
    verbs = VERBS[: VERBS.index(until) + 1]
    stage = {name: getattr(importlib.import_module(f"stages.{name}"), name) for name in verbs}
    for sequence in sequences(study):
        for task in study.tasks:
            stage["prepare"](study, sequence, Namespace(task=task.index))
        for verb in verbs[4:]:
            stage[verb](study, sequence, Namespace(task=None))
    for run in runs(study):
        stage["start"](study, run, Namespace())
        for task in study.tasks:
            for verb in verbs[2:]:
                stage[verb](study, run, Namespace(task=task.index))


def report(study: params.Params) -> None:
    importlib.import_module("stages.report").report(study, None, Namespace())


def main() -> None:
    study = params.load()
    assert Path(importlib.import_module("stages").__file__ or "").is_relative_to(Path.cwd()), "run this in a workspace"
    run_all(study)
    report(study)
    for run in runs(study):
        for task in study.tasks:
            stored, rebuilt = state_after(study, run, task.index), rebuilt_state(study, run, task.index)
            assert delta_fingerprint(stored.delta) == delta_fingerprint(rebuilt.delta), f"{run}, task {task.index}"


if __name__ == "__main__":
    main()
