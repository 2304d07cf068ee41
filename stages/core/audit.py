"""The merge check: what a merge did to the weights, in numbers that sit beside every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .strategy import State
from .weights import Delta


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


def check(before: State, trained: Delta, after: State, weight: Callable[[str], Tensor]) -> Check:
    """
    Args:
        trained: the shift with which the task's last step was taken: frozen + adapter.
        weight: the base's own weights by module.
    """
    sums = dict.fromkeys(("merged", "own", "old", "trained", "error", "cross", "dot"), 0.0)
    lost = dict.fromkeys(("float32", "bfloat16", "float16"), 0.0)
    ranks, conflicts, entries = [], 0, 0
    for name in sorted({*after.delta.modules, *trained.modules}):
        base = weight(name).float()
        merged, final, old = (_module(delta, name, base) for delta in (after.delta, trained, before.delta))
        own = final - old
        for key, value in (
            ("merged", merged),
            ("own", own),
            ("old", old),
            ("trained", final),
            ("error", merged - final),
        ):
            sums[key] += _square(value)
        sums["cross"] += _square(_cross(before, after, trained, merged, final, name))
        sums["dot"] += float((own.double() * old.double()).sum())
        moved = (own != 0) & (old != 0)
        conflicts += int((moved & (own.sign() != old.sign())).sum())
        entries += int(moved.sum())
        if merged.any():
            ranks.append(_square(merged) / float(torch.linalg.matrix_norm(merged, 2)) ** 2)
        for key in lost:
            rounded = (base + merged).to(getattr(torch, key)).float() - base.to(getattr(torch, key)).float()
            lost[key] += _square(rounded - merged)
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


def facts(found: Check) -> dict[str, object]:
    """The check as JSON, rounded to what is stable."""

    def short(value: object) -> object:
        return {k: short(v) for k, v in value.items()} if isinstance(value, dict) else float(f"{value:.6g}")

    return {key: short(value) for key, value in asdict(found).items()}


def _module(delta: Delta, name: str, like: Tensor) -> Tensor:
    shift = delta.module(name)
    return torch.zeros_like(like) if shift is None else shift


def _cross(before: State, after: State, trained: Delta, merged: Tensor, final: Tensor, name: str) -> Tensor:
    """Where what is carried on is a sum of factors, its product is the exact sum plus the cross terms."""
    carried = after.adapter
    if before.adapter is None or carried is None or any(carried is term for term in trained.terms):
        return torch.zeros_like(merged)
    return merged - final


def _square(value: Tensor) -> float:
    return float(value.double().square().sum())


def _ratio(part: float, whole: float) -> float:
    return (part / whole) ** 0.5 if whole else 0.0
