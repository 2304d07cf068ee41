"""The merge check: numbers, stored with every state, that describe what a merge did to the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta
from stages.adapters.state import State
from stages.runtime.device import algebra_device
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator

# Fastest first; of the 16-bit formats, first the one with the larger range.
FORMATS = ("bfloat16", "float16", "float32")
STEPS = 64  # of the Lanczos method
SURVIVING = 0.9  # the share of a delta that must survive rounding for pictures to represent the trained model


@dataclass(frozen=True)
class Check:
    """Norms are Frobenius norms over all modules together."""

    norm: float  # of D, the delta after the task
    own_norm: float  # of the delta that the task itself added to the model it started from
    relative_error: float  # |merged - trained| / |trained|: the distance of the merged delta from the trained one
    cross_terms: float  # |B1 A2 + B2 A1| / |merged|, if factors were added; otherwise 0
    stable_rank: float  # |D|_F^2 / |D|_2^2, mean over modules; at most the rank
    sign_conflicts: float  # share of entries where the task's delta and the earlier tasks' delta have opposite signs
    cosine: float  # between the task's delta and the earlier tasks' delta
    survival: dict[str, float]  # by number format: 1 - |lost in rounding base + D| / |D|, at least 0


def check(
    before: State, frozen: Delta | None, adapter: Adapter, after: State, weight: Callable[[str], Tensor]
) -> Check:
    """Compares a state with the one before it and with the model that was trained: base + frozen + adapter.

    Args:
        before: the state before the task.
        frozen: the delta that was held fixed in training; None for none.
        adapter: the trained adapter.
        after: the merged state.
        weight: returns the base's weight of a module, [out, in].

    Raises:
        ConfigFault: the merged delta has an entry that is not finite.
    """
    trained = (frozen or Delta()) + adapter.delta
    sums = dict.fromkeys(("merged", "own", "old", "trained", "error", "cross", "dot"), 0.0)
    lost = dict.fromkeys(("float32", "bfloat16", "float16"), 0.0)
    ranks, conflicts, entries = [], 0, 0
    for name in sorted({*after.delta.modules, *trained.modules}):
        base = weight(name).float().to(algebra_device())
        merged, final, old = (module_delta(delta, name, base) for delta in (after.delta, trained, before.delta))
        own = final - old
        parts = {"merged": merged, "own": own, "old": old, "trained": final, "error": merged - final}
        for key, value in parts.items():
            sums[key] += _square(value)
        if not math.isfinite(sums["merged"]):
            raise ConfigFault(f"strategy: it merged {name} to numbers that are not finite. Mend its `merge`.")
        if _factors_added(before.adapter, adapter, after.adapter, name):  # merged = sum + cross terms
            sums["cross"] += _square(merged - final)
        sums["dot"] += float((own.double() * old.double()).sum())
        both = (own != 0) & (old != 0)
        conflicts += int((both & (own.sign() != old.sign())).sum())
        entries += int(both.sum())
        if merged.any():
            ranks.append(_square(merged) / spectral_norm(merged) ** 2)
        for key in lost:
            lost[key] += _square(rounding_loss(base, merged, partial(_cast, to=getattr(torch, key))))
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


def rounding_loss(base: Tensor, delta: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the error in a delta of `base`, [out, in], that rounding base and base + delta causes."""
    return rounding(base + delta) - rounding(base) - delta


def _cast(weight: Tensor, to: torch.dtype) -> Tensor:
    return weight.to(to).float()


def precision_warning(result: Check, number_format: str) -> str | None:
    """Returns a warning if the number format loses more than a tenth of the delta, otherwise None."""
    if result.survival[number_format] >= SURVIVING:
        return None
    better = next((name for name in FORMATS if result.survival[name] >= SURVIVING), FORMATS[-1])
    return (
        f"only {result.survival[number_format]:.0%} of the delta survives in {number_format}; pictures show no more. "
        f"Set base.options.dtype to {better}, in which {result.survival[better]:.0%} does."
    )


def facts(result: Check) -> dict[str, object]:
    """Returns the check as JSON values, rounded to six digits, which are reproducible."""

    def rounded(value: object) -> object:
        return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else float(f"{value:.6g}")

    return {key: rounded(value) for key, value in asdict(result).items()}


def module_delta(delta: Delta, name: str, like: Tensor) -> Tensor:
    """Returns a module's part of a delta, dense, [out, in], on the device of `like`; zeros if it has none."""
    value = delta.module(name, like.device)
    return torch.zeros_like(like) if value is None else value


def _factors_added(old: Adapter | None, new: Adapter, carried: Adapter | None, name: str) -> bool:
    """Whether the carried adapter is the sum of two adapters' factors, as `add_factors` makes it, by its values."""
    if old is None or carried is None or not all(name in adapter.a for adapter in (old, new, carried)):
        return False
    return _is_sum(carried.a[name], old.a[name], new.a[name]) and _is_sum(carried.b[name], old.b[name], new.b[name])


def _is_sum(total: Tensor, one: Tensor, other: Tensor) -> bool:
    return total.shape == one.shape == other.shape and torch.equal(total, one + other)


def spectral_norm(matrix: Tensor) -> float:
    """Returns the largest singular value of a matrix [out, in].

    Small matrices: exact. Others: the Lanczos method from a fixed start, which never overestimates. It underestimates
    by less than the sixth digit if the largest value stands out, and by less than one in a thousand if none does
    (Kuczynski and Wozniakowski 1992, on the Lanczos method with a random start).
    """
    if min(matrix.shape) <= 4 * STEPS:
        return float(torch.linalg.matrix_norm(matrix, 2))
    m = matrix.double()
    v = torch.randn(m.shape[1], generator=generator("spectral norm"), dtype=torch.float64).to(m.device)
    basis, images = [], []
    for _ in range(STEPS):
        v = v / v.norm()
        basis.append(v)
        images.append(m.T @ (m @ v))
        known = torch.stack(basis)
        v = images[-1] - known.T @ (known @ images[-1])
        v = v - known.T @ (known @ v)  # twice: rounding errors of a single pass grow
        if float(v.norm()) <= 1e-12 * float(images[-1].norm()):
            break
    small = torch.stack(basis) @ torch.stack(images).T
    largest = float(torch.linalg.eigvalsh((small + small.T) / 2)[-1])
    return math.sqrt(largest)


def _square(value: Tensor) -> float:
    return float(value.double().square().sum())


def _ratio(part: float, whole: float) -> float:
    return (part / whole) ** 0.5 if whole else 0.0
