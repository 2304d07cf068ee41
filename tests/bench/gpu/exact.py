"""The part of the full-size benchmark about equal bytes: two trainings alike, and one that is stopped and resumed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from unittest.mock import patch

import torch

from stages.adapters.algebra import Adapter
from stages.adapters.storage import flat
from tests.bench.blocks import short
from tests.bench.gpu.bench import Bench
from tests.bench.gpu.training import Ours, Stopped

STEPS, SAVED, STOPPED = 8, 3, 5  # steps of a training; those between checkpoints; the step after which one is stopped


@dataclass
class Exact:
    """Compares adapters bit for bit, with torch's fastest kernels and with those of PALIMPSEST_EXACT."""

    bench: Bench

    def run(self, _: float) -> None:
        for exact in (True, False):
            name = "exact kernels" if exact else "the fastest kernels"
            with asked(exact):
                self.compare(name, must=exact or not self.bench.on_gpu)
                seconds = Ours(self.bench).measure()
            self.bench.record(f"step: ours, with {name}{self.bench.uncompiled}", [seconds])
            self.bench.notes.print(f"  a step with {name}: {short(seconds)}")

    def compare(self, name: str, must: bool) -> None:
        """Trains twice alike, and once more with a stop.

        Args:
            name: of the kernels.
            must: whether a difference is an error.
        """
        ours = Ours(self.bench)
        first = ours.train(STEPS, number=1).adapter
        again = ours.train(STEPS, number=1).adapter
        with suppress(Stopped):
            ours.train(STEPS, checkpoint_every=SAVED, number=1, stop=STOPPED)
        resumed = ours.train(STEPS, checkpoint_every=SAVED, number=1).adapter
        for what, other in (("two trainings alike", again), ("one stopped and resumed", resumed)):
            result = difference(first, other)
            self.bench.notes.print(f"  {what}, with {name}: {result or 'equal to the last bit'}")
            if result and must:
                self.bench.notes.fail(f"{what} differ", result)


@contextmanager
def asked(exact: bool) -> Iterator[None]:
    with patch.dict(os.environ, {"PALIMPSEST_EXACT": str(int(exact))}):
        yield


def difference(one: Adapter, other: Adapter) -> str:
    """How far two adapters are apart; empty if they are equal."""
    pairs = [(a.flatten(), b.flatten()) for a, b in zip(flat(one).values(), flat(other).values(), strict=True)]
    a, b = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    if torch.equal(a, b):
        return ""
    share, far = float((a != b).float().mean()), float((a - b).norm() / a.norm())
    return f"{share:.1%} of the numbers differ, by {far:.1e} of their size"
