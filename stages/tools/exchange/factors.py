"""A shift as one pair of factors per module: exactly where it is a sum of adapters, otherwise the closest of a rank."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.adapters.algebra import Delta
from stages.runtime.device import device

Pair = tuple[Tensor, Tensor]  # A [rank, in] and B [out, rank]


def join(delta: Delta, name: str) -> Pair:
    """The sum of the terms of one module as one pair: their ranks one after another, and nothing is lost.

    sum_t s_t B_t A_t = [s_1 B_1 ... s_T B_T] [A_1; ...; A_T]

    Raises:
        ValueError: the module has a dense part, which no factors hold exactly.
    """
    if name in delta.dense:
        raise ValueError(f"{name}: a dense shift has no exact factors")
    return balance(*_stacked(delta, name))


def _stacked(delta: Delta, name: str) -> Pair:
    terms = [term for term in delta.terms if name in term.a]
    a = torch.cat([term.a[name].float() for term in terms])
    return a, torch.cat([term.scale * term.b[name].float() for term in terms], 1)


def full_rank(delta: Delta, name: str) -> int:
    """The rank that holds all of one module's shift: of all its terms together, and never more than it is wide."""
    if name in delta.dense:
        return min(delta.dense[name].shape)
    terms = [term for term in delta.terms if name in term.a]
    wide = min(len(terms[0].b[name]), terms[0].a[name].shape[1])
    return min(wide, sum(len(term.a[name]) for term in terms))


def balance(a: Tensor, b: Tensor) -> Pair:
    """The same product with the largest entries of each row of A and column of B about equal.

    Trained factors differ by orders of magnitude, and small ones would fall below what half precision holds. Only
    powers of two are moved from one side to the other, so that the product is the same to the last bit.
    """
    tall, wide = a.abs().amax(1), b.abs().amax(0)
    usable = (tall > 0) & (wide > 0)
    shift = torch.where(usable, torch.log2(torch.where(usable, wide / tall, 1.0)) / 2, 0.0).round()
    return a * torch.exp2(shift)[:, None], b * torch.exp2(-shift)


def truncate(delta: Delta, name: str, rank: int) -> Pair:
    """The factors of this rank that are closest to the shift of one module in the Frobenius norm (Eckart-Young).

    A sum is not multiplied out where its factors are thinner than the module: with B = Q R and A^T = P S the shift is
    Q (R S^T) P^T, and only the small square in the middle is decomposed, which is exact. The singular vectors come from
    the eigenvectors of its Gram matrix in float64; the square roots of the singular values go to both sides.
    """
    left, middle, right = _core(delta, name)
    flat = middle.shape[0] <= middle.shape[1]
    core = middle if flat else middle.T
    _, vectors = torch.linalg.eigh(core @ core.T)
    u = vectors[:, -min(rank, core.shape[0]) :].flip(1)
    rows = u.T @ core  # singular value times right-singular vector, row by row
    half = rows.norm(dim=1).sqrt()
    v = rows / torch.where(half > 0, half, torch.ones_like(half))[:, None]
    a, b = (v, u * half) if flat else ((u * half).T, v.T)
    a = a if right is None else a @ right.T
    b = b if left is None else left @ b
    return balance(a.float().cpu(), b.float().cpu())


def _core(delta: Delta, name: str) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Q, M, P with shift = Q M P^T, both with orthonormal columns; None where they are not worth it. float64."""
    where = device()
    if name not in delta.dense:
        a, b = (half.to(where, torch.float64) for half in _stacked(delta, name))
        if a.shape[0] < min(a.shape[1], b.shape[0]):
            (q, r), (p, s) = torch.linalg.qr(b), torch.linalg.qr(a.T)
            return q, r @ s.T, p
        return None, b @ a, None
    shift = delta.module(name)
    assert shift is not None
    return None, shift.to(where, torch.float64), None


def relative_error(delta: Delta, name: str, written: Tensor | Pair) -> float:
    """|written - shift| / |shift| of one module, Frobenius norms; what is written is a matrix or a pair of factors."""
    where = device()
    exact = _exact(delta, name, where)
    if isinstance(written, tuple):
        a, b = (half.to(where, torch.float64) for half in written)
        found = b @ a
    else:
        found = written.to(where, torch.float64)
    size = float(exact.norm())
    return float((found - exact).norm()) / size if size else float(found.norm())


def _exact(delta: Delta, name: str, where: torch.device) -> Tensor:
    """The shift in float64, so that the error of float32 files shows too."""
    total = torch.zeros((), dtype=torch.float64, device=where)
    for term in delta.terms:
        if name in term.a:
            a, b = term.a[name].to(where, torch.float64), term.b[name].to(where, torch.float64)
            total = total + term.scale * (b @ a)
    return total + delta.dense[name].to(where, torch.float64) if name in delta.dense else total
