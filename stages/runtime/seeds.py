"""Random numbers named by their purpose: the same words give the same numbers in any process, after any crash."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


def seed(*words: object) -> int:
    """Returns a stable 63-bit hash of the words, for instance seed(study_seed, order, position, "noise", step)."""
    digest = hashlib.sha256("\x1f".join(str(word) for word in words).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*words: object) -> Generator:
    """Returns a generator seeded with `seed(*words)`; always on the CPU, so that all devices get the same numbers."""
    import torch  # here: names of concepts and their tokens need no torch

    return torch.Generator().manual_seed(seed(*words))
