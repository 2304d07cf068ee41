"""What a training leaves for the next of the same shape: its learner and its descent, with the recorded CUDA graphs.

To record a step takes as long as sixteen steps of SDXL. A graph reads and writes fixed places in memory, so the next
training writes its own adapter and frozen weights to them, and zeros to gradients and moments: its numbers are those of
new objects. Nothing is kept of a training that raised, and nothing where memory is short (see `core/spare.py`).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from stages.adapters.algebra import Adapter, Delta
from stages.core.family import Family
from stages.core.params import Train
from stages.core.spare import spare
from stages.runtime.device import device, memory_of, reproducible
from stages.training.distributed import process_group
from stages.training.step import Descent

# Of the device's memory, at most, for recorded graphs that are kept: pictures are sampled beside them. A flow runs two
# stages on a GPU only if twice the memory that a worker has held fits, and that gains more than a kept graph.
SHARE = 0.125
# Options that no recorded function reads. A training that differs in another one has new objects.
UNRECORDED = {"steps", "learning_rate", "schedule", "reinit", "draws", "checkpoint_every"}


@runtime_checkable
class Renewable(Protocol):
    """A learner that another training can use."""

    def rest(self) -> bool:
        """Frees what `prepare` has made; False if no other training can use the learner."""

    def renew(self, frozen: Delta, adapter: Adapter) -> bool:
        """Becomes the learner of this frozen delta and adapter, in the same memory; False if they do not fit."""


def taken(family: Family, frozen: Delta | None, adapter: Adapter, options: Train, alone: bool) -> Descent | None:
    """The descent that the last training has left, ready for another one, with its learner.

    Args:
        alone: whether the other one may have it: in a batch of trainings each has objects of its own.

    Returns:
        None if there is none, or if it is of another shape, family or options; then it is freed.
    """
    kept: tuple[Family, list[object], Descent] | None = spare.take()
    if kept is None:
        return None
    of, key, descent = kept
    try:
        learner, like = descent.learner, alone and of is family and key == _key(options)
        if like and isinstance(learner, Renewable) and learner.renew(frozen or Delta(), adapter):
            descent.renew()
            return descent
    except BaseException:
        descent.close()
        raise
    descent.close()
    return None


def keep(family: Family, options: Train, descent: Descent) -> None:
    """Leaves the descent of a training that has ended to the next one, or frees it."""
    learner, recorded = descent.learner, descent.recorded
    fits = recorded is not None and recorded <= SHARE * memory_of(device()) and process_group().size == 1
    if fits and isinstance(learner, Renewable) and learner.rest():
        spare.put((family, _key(options), descent), descent.close)
    else:
        descent.close()


def _key(options: Train) -> list[object]:
    return [options.model_dump(exclude=UNRECORDED), reproducible()]
