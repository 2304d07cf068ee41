"""The algebra of adapters and deltas: changes of weights.

An adapter is a low-rank change of several matrices of the base, as it is trained. A delta is any change of them: a sum
of adapters stored as its terms, which is exact and small, or dense matrices where the result of an operation has no low
rank. All sums are done in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stages.adapters.transfer import to_device, to_host
from stages.runtime.device import algebra_device

Matrices = Mapping[str, Tensor]
ALL = slice(None)
BLOCK = 1 << 20  # entries of a matrix that are made at a time when two deltas are compared: four megabytes
CACHED = 1 << 16  # entries: three such pieces and their result fit into a core's cache


@dataclass(frozen=True, eq=False)
class Adapter:
    """LoRA of several modules (Hu et al., arXiv 2106.09685): module m is changed by scale * b[m] @ a[m].

    a: module -> [rank, in], b: module -> [out, rank], both float32.
    """

    a: Matrices
    b: Matrices
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.a.keys() != self.b.keys():
            raise ValueError(
                f"an adapter needs both halves of every module: {sorted(self.a.keys() ^ self.b.keys())[:3]}"
            )
        for name in self.a:
            if self.a[name].shape[0] != self.b[name].shape[1]:
                raise ValueError(f"{name}: ranks {self.a[name].shape[0]} and {self.b[name].shape[1]} differ")

    def module(self, name: str, on: torch.device | None = None, rows: slice = ALL) -> Tensor:
        """The delta of one module, [out, in] float32, or some of its rows; `on`: the device; None: its own."""
        product = self.b[name][rows].to(on, torch.float32) @ self.a[name].to(on, torch.float32)
        return product if self.scale == 1.0 else self.scale * product

    @property
    def delta(self) -> Delta:
        return Delta((self,))


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of the base's weights: the sum of its terms, and of dense matrices if it has any. Delta() is zero."""

    terms: tuple[Adapter, ...] = ()
    dense: Matrices = field(default_factory=dict)

    @property
    def modules(self) -> list[str]:
        """The names of the modules that it changes, sorted."""
        return sorted({*self.dense, *(name for term in self.terms for name in term.a)})

    def module(self, name: str, on: torch.device | None = None, rows: slice = ALL) -> Tensor | None:
        """The delta of one module, [out, in] float32, or some of its rows; None where it is zero.

        Added up in the order dense, first term, second term, ...: a running sum of the terms has the same bits.
        """
        total = self.dense[name][rows].to(on, torch.float32) if name in self.dense else None
        own = False  # may `total` be changed in place?
        for term in self.terms:
            if name in term.a:
                part = term.module(name, on, rows)
                total = part if total is None else total.add_(part) if own else total + part
                own = True
        return total

    def rows(self, name: str) -> Tensor:
        """Rows [k, in] that span the row space of the delta of one module, taken from its factors if it has any."""
        parts = [term.a[name].float() for term in self.terms if name in term.a]
        return torch.cat([*parts, self.dense[name].float()] if name in self.dense else parts)

    def matrices(self) -> Iterator[tuple[str, Tensor]]:
        """All deltas one after another, so that never more than one is in memory."""
        for name in self.modules:
            shift = self.module(name)
            assert shift is not None
            yield name, shift

    def __add__(self, other: Delta) -> Delta:
        both = self.dense.keys() & other.dense.keys()
        dense = {**self.dense, **other.dense} | {name: self.dense[name] + other.dense[name] for name in both}
        return Delta(self.terms + other.terms, dense)

    def __mul__(self, factor: float) -> Delta:
        terms = tuple(replace(term, scale=term.scale * factor) for term in self.terms)
        return Delta(terms, {name: shift * factor for name, shift in self.dense.items()})

    __rmul__ = __mul__

    def __sub__(self, other: Delta) -> Delta:
        return self + other * -1.0


def widened(adapter: Adapter, like: Adapter) -> Adapter:
    """The same delta at the scale and rank of `like`; added rows of A are those of `like`, with B zero.

    If the scales differ, B is rounded once; otherwise nothing is rounded.
    """
    factor = adapter.scale / like.scale
    a, b = {}, {}
    for name, down in adapter.a.items():
        more = like.a[name][len(down) :].to(down)
        up = adapter.b[name] if factor == 1.0 else factor * adapter.b[name]
        a[name] = torch.cat([down, more])
        b[name] = torch.cat([up, up.new_zeros(len(up), len(more))], 1)
    return Adapter(a, b, like.scale)


def add_factors(old: Adapter, new: Adapter) -> Adapter:
    """(A1 + A2, B1 + B2), as the paper's code merges two adapters: their product has the cross terms B1 A2 + B2 A1.

    Raises:
        ValueError: the two differ in modules, ranks or scale, so that factors cannot be added.
    """
    if old.a.keys() != new.a.keys() or old.scale != new.scale:
        raise ValueError("factors can be added only between adapters of the same modules and scale")
    return Adapter({n: old.a[n] + new.a[n] for n in new.a}, {n: old.b[n] + new.b[n] for n in new.b}, new.scale)


def larger(old: Tensor, new: Tensor, threshold: float = 1.0, into: Tensor | None = None) -> Tensor:
    """Entry by entry the one of larger magnitude; a tie goes to the new one (MagMax, arXiv 2407.06322).

    With a threshold c the new entry is taken where |new| >= c |old|. Works on a few entries at a time, which stay in a
    core's cache. If `into` is given, a contiguous tensor of the same shape, the result is written to it.
    """
    chosen = new.new_empty(new.shape) if into is None else into
    if new.device.type != "cpu":
        return torch.where(new.abs() >= threshold * old.abs(), new, old, out=chosen)
    flat = [matrix.reshape(-1) for matrix in (old, new, chosen)]
    for at in range(0, new.numel(), CACHED):
        a, b, out = (matrix[at : at + CACHED] for matrix in flat)
        least = a.abs() if threshold == 1.0 else threshold * a.abs()
        torch.where(b.abs() >= least, b, a, out=out)
    return chosen


def select(old: Delta, new: Delta, threshold: float = 1.0) -> Delta:
    """`larger` over all modules of two deltas, dense; a module that only one of them changes is compared with zero.

    On a CPU some rows at a time, so that beside the result there are never more than a few megabytes in memory.
    """
    if algebra_device().type != "cpu":
        return Delta(dense=_by_module(old, new, lambda a, b: _larger_of_any(a, b, threshold)))
    dense = {}
    for name in sorted({*old.modules, *new.modules}):
        height, width = _shape(new if name in new.modules else old, name)
        chosen = torch.empty((height, width))
        for at in range(0, height, step := max(1, BLOCK // width)):
            rows = slice(at, at + step)
            a, b = (delta.module(name, rows=rows) for delta in (old, new))
            _larger_of_any(a, b, threshold, chosen[rows])
        dense[name] = chosen
    return Delta(dense=dense)


def _larger_of_any(old: Tensor | None, new: Tensor | None, threshold: float, into: Tensor | None = None) -> Tensor:
    """`larger` of two, of which one may be None for zero: against zero any other is the larger."""
    if old is not None and new is not None:
        return larger(old, new, threshold, into)
    only = new if old is None else old
    assert only is not None
    return only if into is None else into.copy_(only)


def combine(old: Delta, new: Delta, rule: Callable[[Tensor, Tensor], Tensor]) -> Delta:
    """rule(old, new) [out, in] of each module, dense, on the CPU; where one of them changes nothing it is 0."""

    def filled(a: Tensor | None, b: Tensor | None) -> Tensor:
        like = next(shift for shift in (a, b) if shift is not None)
        return rule(*(torch.zeros_like(like) if shift is None else shift for shift in (a, b)))

    return Delta(dense=_by_module(old, new, filled))


def _by_module(old: Delta, new: Delta, rule: Callable[[Tensor | None, Tensor | None], Tensor]) -> dict[str, Tensor]:
    """rule(old, new) of each module, computed on the device; None where one of them changes nothing."""
    names, on = sorted({*old.modules, *new.modules}), algebra_device()
    pairs = zip(names, resident(old, names, on), resident(new, names, on), strict=True)
    return to_host(((name, rule(a.module(name), b.module(name))) for name, a, b in pairs), on)


def resident(delta: Delta, names: Sequence[str], on: torch.device) -> Iterator[Delta]:
    """The parts of a delta by module, on a device; those of the next modules are copied meanwhile."""

    def stored() -> Iterator[Tensor]:
        for name in names:
            yield from (delta.dense[name],) if name in delta.dense else ()
            yield from (half[name] for term in delta.terms if name in term.a for half in (term.a, term.b))

    tensors = to_device(stored(), on)
    for name in names:
        dense = {name: next(tensors)} if name in delta.dense else {}
        terms = [term for term in delta.terms if name in term.a]
        yield Delta(tuple(replace(term, a={name: next(tensors)}, b={name: next(tensors)}) for term in terms), dense)


def smallest(matrix: Tensor, share: float) -> Tensor:
    """Which entries of a matrix are among this share of the smallest in magnitude, at least one: a mask."""
    sizes = matrix.abs()
    return sizes <= sizes.flatten().kthvalue(max(1, int(share * sizes.numel()))).values


def trimmed(matrix: Tensor, density: float) -> Tensor:
    """The share `density` of the entries of a matrix that are largest in magnitude; 0 for the others."""
    left = matrix.numel() - int(density * matrix.numel())
    return torch.where(smallest(matrix, left / matrix.numel()), 0.0, matrix) if left else matrix


def _shape(delta: Delta, name: str) -> tuple[int, int]:
    if name in delta.dense:
        return delta.dense[name].shape[0], delta.dense[name].shape[1]
    term = next(term for term in delta.terms if name in term.a)
    return term.b[name].shape[0], term.a[name].shape[1]


def orthogonal_columns(a: Tensor, unit: bool = True) -> Tensor:
    """For each column of `a` [rank, n] a vector of unit length that is orthogonal to it, [rank, n].

    It is the last right-singular vector of the column taken as a 1 x rank matrix, which is what the paper's code
    computes one SVD at a time. LAPACK gets there with one Householder reflection, so it has a closed form: with column
    v, beta = -sign(v0) |v| and u = v but u0 = v0 - beta, it is e_last + v_last / (beta u0) u.

    Args:
        unit: keep the length 1, as published; otherwise give each column the length of the one that it replaces.
    """
    rank = a.shape[0]
    room = a.square()  # reused for the result: allocating memory takes longer than the computation
    norm = room.sum(0, dtype=torch.float64).sqrt()
    if rank == 1:  # nothing is orthogonal to a number: LAPACK's vector is 1, and so is this one
        result = torch.ones_like(a)
    else:
        beta = torch.where(norm > 0, -torch.copysign(norm, a[0].double()), 1.0)
        result = torch.mul(a, (a[-1] / (beta * (a[0] - beta))).to(a.dtype), out=room)
        result[0] = a[-1] / beta
        result[-1] += 1.0
    return result if unit else result * norm.to(a.dtype)


def orthogonal_rows(fresh: Tensor, before: Tensor) -> Tensor:
    """The rows of `fresh` [rank, n] with everything taken out that lies in the row space of `before` [k, n].

    Each row keeps its length, so that it differs from a plain draw in direction only. If nothing remains of a row, as
    where `before` spans the whole space, `fresh` is returned unchanged.
    """
    _, sizes, directions = torch.linalg.svd(before.double(), full_matrices=False)
    q = directions[sizes > 1e-7 * sizes.max()].T
    rest: Tensor = fresh.double() - (fresh.double() @ q) @ q.T
    length = rest.norm(dim=1, keepdim=True)
    if bool((length < 1e-6).any()):
        return fresh
    stretched: Tensor = rest / length * fresh.double().norm(dim=1, keepdim=True)
    return stretched.to(fresh.dtype)


def fresh_adapter(shapes: Mapping[str, tuple[int, int]], rank: int, alpha: float, g: torch.Generator) -> Adapter:
    """A drawn from a normal distribution with deviation 1 / rank, as peft's "gaussian", and B zero."""
    a = {name: torch.randn((rank, columns), generator=g) / rank for name, (_, columns) in sorted(shapes.items())}
    return Adapter(a, {name: torch.zeros((rows, rank)) for name, (rows, _) in sorted(shapes.items())}, alpha / rank)
