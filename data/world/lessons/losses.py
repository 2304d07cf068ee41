"""The losses of the judges: vectors of what belongs together are close, and those of blends lie between."""

from collections.abc import Callable

import torch
from torch import Tensor

WARMTH, MARGIN = 0.1, 0.3


def together(f: Tensor, labels: Tensor, others: Tensor, kin: Tensor) -> Tensor:
    """Supervised contrastive loss (arXiv 2004.11362) of unit vectors f [n, d]; `others` [m, d] match none.

    What is of one family by `kin` [n + m] but not the same must be less alike by a margin, or the colours alone decide.
    """
    same = labels[:, None] == labels[None]
    near = kin[: len(f), None] == kin[None]
    near[:, : len(f)] &= ~same
    logits = (f @ torch.cat([f, others]).T + MARGIN * near) / WARMTH
    logits[:, : len(f)].fill_diagonal_(-1e4)
    same &= ~torch.eye(len(f), dtype=torch.bool, device=f.device)
    logs = logits.log_softmax(1)[:, : len(f)]
    return -((logs * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def matched(f: Tensor, t: Tensor, ids: Tensor) -> Tensor:
    """CLIP's loss of pictures f [n, d] and their texts t [n, d]; equal texts fit each other's pictures equally well."""
    logits = f @ t.T / WARMTH
    fits = (ids[:, None] == ids[None]).all(-1).float()
    fits = fits / fits.sum(1, keepdim=True)
    return -(logits.log_softmax(1) * fits + logits.T.log_softmax(1) * fits).sum(1).mean() / 2


def between(
    encode: Callable[[Tensor], Tensor], x: Tensor, f: Tensor, g: torch.Generator, exponent: float = 1
) -> Tensor:
    """Blends of two pictures, x [n, 3, h, w] with vectors f [n, d], ought to be less like each the less there is of it:
    in proportion, or faster with an exponent above 1."""
    other = torch.randperm(len(x), generator=g, device=g.device)
    share = 0.2 + 0.6 * torch.rand(len(x), generator=g, device=g.device)
    f = f.detach()
    blend, alike = encode(x.lerp(x[other], share[:, None, None, None])), (f * f[other]).sum(1)
    wanted = [alike.lerp(torch.ones_like(alike), part**exponent) for part in (1 - share, share)]
    wrong = [(blend * one).sum(1) - want for one, want in zip((f, f[other]), wanted, strict=True)]
    return 2 * (wrong[0].square() + wrong[1].square()).mean()
