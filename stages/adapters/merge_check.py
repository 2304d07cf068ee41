"""The merge check: what a merge did to the weights, in numbers that sit beside every state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.runtime.device import device
from stages.runtime.seeds import generator

FORMATS = ("bfloat16", "float16", "float32")  # the fastest first; of the two halves the one with the larger range
SURVIVING = 0.9  # of a shift, at least, for its pictures to be taken for those of the model that was trained


@dataclass(frozen=True)
class Check:
    """Norms are Frobenius norms over all modules together."""

    norm: float  # of the shift of the base after the task
    own_norm: float  # of what the task itself added to the model that it started from
    relative_error: float  # |merged - trained| / |trained|: how far the saved model is from the one that was trained
    cross_terms: float  # |B1 A2 + B2 A1| / |merged|, where factors were added; otherwise 0
    stable_rank: float  # |D|_F^2 / |D|_2^2, mean over modules (as a matrix of rank r can have r at most)
    sign_conflicts: float  # share of entries that the task moves against what the tasks before it had moved
    cosine: float  # between what the task added and what the tasks before it had
    survival: dict[str, float]  # by number format: 1 - |lost in rounding base + D| / |D|, at least 0


def check(
    before: State, frozen: Delta | None, adapter: Adapter, after: State, weight: Callable[[str], Tensor]
) -> Check:
    """Compares a state with the one before it and with the model that was trained: base + frozen + adapter.

    Args:
        frozen: the shift that was held fixed in training; None for none.
        adapter: the trained adapter.
        weight: the base's own weights by module.
    """
    trained = (frozen or Delta()) + adapter.delta
    sums = dict.fromkeys(("merged", "own", "old", "trained", "error", "cross", "dot"), 0.0)
    lost = dict.fromkeys(("float32", "bfloat16", "float16"), 0.0)
    ranks, conflicts, entries = [], 0, 0
    for name in sorted({*after.delta.modules, *trained.modules}):
        base = weight(name).float().to(device())
        merged, final, old = (shift_of(delta, name, base) for delta in (after.delta, trained, before.delta))
        own = final - old
        for key, value in (
            ("merged", merged),
            ("own", own),
            ("old", old),
            ("trained", final),
            ("error", merged - final),
        ):
            sums[key] += _square(value)
        if _factors_added(before.adapter, adapter, after.adapter, name):  # the merged shift is the sum and cross terms
            sums["cross"] += _square(merged - final)
        sums["dot"] += float((own.double() * old.double()).sum())
        moved = (own != 0) & (old != 0)
        conflicts += int((moved & (own.sign() != old.sign())).sum())
        entries += int(moved.sum())
        if merged.any():
            ranks.append(_square(merged) / spectral_norm(merged) ** 2)
        for key in lost:
            lost[key] += _square(lost_in(base, merged, partial(_cast, to=getattr(torch, key))))
    return Check(
        norm=sums["merged"] ** 0.5,
        own_norm=sums["own"] ** 0.5,
        relative_error=_ratio(sums["error"], sums["trained"]),
        cross_terms=_ratio(sums["cross"], sums["merged"]),
        stable_rank=sum(ranks) / len(ranks) if ranks else 0.0,
        sign_conflicts=conflicts / entries if entries else 0.0,
        cosine=sums["dot"] / (sums["own"] * sums["old"]) ** 0.5 if sums["own"] * sums["old"] else 0.0,
        survival={key: max(0.0, 1 - _ratio(value, sums["merged"])) for key, value in lost.items()},
    )


def lost_in(base: Tensor, shift: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """What of a shift of `base` [out, in] is gone, or come about, once base and base + shift are rounded."""
    return rounding(base + shift) - rounding(base) - shift


def _cast(weight: Tensor, to: torch.dtype) -> Tensor:
    return weight.to(to).float()


def too_coarse(found: Check, number_format: str) -> str | None:
    """What to say of a number format that loses more than a tenth of the shift; None where it does not."""
    if found.survival[number_format] >= SURVIVING:
        return None
    better = next((name for name in FORMATS if found.survival[name] >= SURVIVING), FORMATS[-1])
    return (
        f"only {found.survival[number_format]:.0%} of the shift survives in {number_format}; pictures show no more. "
        f"Set base.options.dtype to {better}, in which {found.survival[better]:.0%} does."
    )


def facts(found: Check) -> dict[str, object]:
    """The check as JSON, rounded to what is stable."""

    def short(value: object) -> object:
        return {k: short(v) for k, v in value.items()} if isinstance(value, dict) else float(f"{value:.6g}")

    return {key: short(value) for key, value in asdict(found).items()}


def shift_of(delta: Delta, name: str, like: Tensor) -> Tensor:
    """The shift of one module, dense; zeros where there is none."""
    shift = delta.module(name, like.device)
    return torch.zeros_like(like) if shift is None else shift


def _factors_added(old: Adapter | None, new: Adapter, carried: Adapter | None, name: str) -> bool:
    """Whether a merge made one adapter of two by adding their factors, as `add_factors` does; the numbers decide."""
    if old is None or carried is None or not all(name in adapter.a for adapter in (old, new, carried)):
        return False
    return _is_sum(carried.a[name], old.a[name], new.a[name]) and _is_sum(carried.b[name], old.b[name], new.b[name])


def _is_sum(total: Tensor, one: Tensor, other: Tensor) -> bool:
    return total.shape == one.shape == other.shape and torch.equal(total, one + other)


def spectral_norm(matrix: Tensor, steps: int = 64) -> float:
    """The largest singular value of a matrix [out, in].

    From all of them where it is small; otherwise by the Lanczos method from a fixed start, which never finds too much.
    What it misses is below the sixth digit where the largest stands out, and below a part in a thousand where no value
    does (Kuczynski and Wozniakowski 1992, on the Lanczos method with a random start).
    """
    if min(matrix.shape) <= 4 * steps:
        return float(torch.linalg.matrix_norm(matrix, 2))
    m = matrix.double()
    v = torch.randn(m.shape[1], generator=generator("spectral norm"), dtype=torch.float64).to(m.device)
    basis, images = [], []
    for _ in range(steps):
        v = v / v.norm()
        basis.append(v)
        images.append(m.T @ (m @ v))
        known = torch.stack(basis)
        v = images[-1] - known.T @ (known @ images[-1])
        v = v - known.T @ (known @ v)  # twice, for once leaves roundings that grow
        if float(v.norm()) <= 1e-12 * float(images[-1].norm()):
            break
    small = torch.stack(basis) @ torch.stack(images).T
    largest = float(torch.linalg.eigvalsh((small + small.T) / 2)[-1])
    return math.sqrt(largest)


def _square(value: Tensor) -> float:
    return float(value.double().square().sum())


def _ratio(part: float, whole: float) -> float:
    return (part / whole) ** 0.5 if whole else 0.0
