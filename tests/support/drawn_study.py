"""A fast study of two tasks merged by many strategies: its adapters are random instead of trained."""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from stages.adapters.algebra import Adapter
from stages.adapters.storage import save_adapter
from stages.core import params
from stages.core.runs import provenance, runs, sequences
from stages.core.strategy import strategies
from stages.files import artifact, writing
from stages.merge import merge
from stages.prepare import prepare
from stages.runtime.seeds import generator
from stages.start import start
from tests.support.workspace import workspace

SUM, DENSE = "objects/0/merge_init/0", "objects/0/magmax/0"


def drawn_study(parent: Path, merged_by: Iterable[str] = strategies.classes) -> Iterator[params.Params]:
    """Yields the study's parameters; until the iterator resumes, its workspace is the current directory."""
    folder = workspace(parent / "work", strategies=sorted(merged_by))
    with pytest.MonkeyPatch.context() as monkey, patch.object(writing, "sync"):
        monkey.chdir(folder)
        loaded = params.load()
        for task in loaded.tasks:
            prepare(loaded, sequences(loaded)[0], Namespace(task=task.index))
        for run in runs(loaded):
            start(loaded, run, Namespace())
            for task in loaded.tasks:
                _write_adapter(loaded, run, task.index)
                merge(loaded, run, Namespace(task=task.index))
        yield loaded


def _write_adapter(study, run, index):
    g = generator(index)
    a = {n: torch.randn(4, c, generator=g) / 4 for n, (_, c) in study.family.shapes().items()}
    adapter = Adapter(a, {n: 0.05 * torch.randn(r, 4, generator=g) for n, (r, _) in study.family.shapes().items()}, 2.0)
    data = artifact.read(run.sequence.data(index), "data")
    facts = provenance(study, run) | {"concept": data["concept"], "scale": 2.0, "position": int(index)}
    facts["train"] = study.train.model_dump(mode="json")
    with artifact.publish(run.at(index) / "adapter", "adapter", facts) as draft:
        save_adapter(draft / "adapter.safetensors", adapter)
