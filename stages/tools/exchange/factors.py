"""A delta as one pair of factors per module: exact for a sum of adapters, otherwise the closest of a given rank."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.adapters.algebra import Delta
from stages.runtime.device import algebra_device

Pair = tuple[Tensor, Tensor]  # A [rank, in] and B [out, rank]


def join(delta: Delta, name: str) -> Pair:
    """Joins the terms of one module into one exact pair of factors, by stacking their ranks.

    sum_t s_t B_t A_t = [s_1 B_1 ... s_T B_T] [A_1; ...; A_T]

    Raises:
        ValueError: the module has a dense part, which has no exact factors.
    """
    if name in delta.dense:
        raise ValueError(f"{name}: a dense delta has no exact factors")
    return balance(*_stacked(delta, name))


def _stacked(delta: Delta, name: str) -> Pair:
    terms = [term for term in delta.terms if name in term.a]
    a = torch.cat([term.a[name].float() for term in terms])
    return a, torch.cat([term.scale * term.b[name].float() for term in terms], 1)


def full_rank(delta: Delta, name: str) -> int:
    """The rank that represents one module's delta exactly: the sum of its terms' ranks, at most its smaller side."""
    if name in delta.dense:
        return min(delta.dense[name].shape)
    terms = [term for term in delta.terms if name in term.a]
    smaller_side = min(len(terms[0].b[name]), terms[0].a[name].shape[1])
    return min(smaller_side, sum(len(term.a[name]) for term in terms))


def balance(a: Tensor, b: Tensor) -> Pair:
    """Rescales each row of A and column of B so that their largest entries are about equal.

    Trained factors differ by orders of magnitude, and small ones would underflow in half precision. The scales are
    powers of two, so that the product B A does not change by a bit.
    """
    largest_a, largest_b = a.abs().amax(1), b.abs().amax(0)
    nonzero = (largest_a > 0) & (largest_b > 0)
    exponent = torch.where(nonzero, torch.log2(torch.where(nonzero, largest_b / largest_a, 1.0)) / 2, 0.0).round()
    return a * torch.exp2(exponent)[:, None], b * torch.exp2(-exponent)


def truncate(delta: Delta, name: str, rank: int) -> Pair:
    """The factors of this rank that are closest to one module's delta in the Frobenius norm (Eckart-Young).

    Where the factors are thinner than the module, they are not multiplied out: with B = Q R and A^T = P S the delta is
    Q (R S^T) P^T, and only the small matrix R S^T is decomposed, which is exact. The singular vectors are computed from
    the eigenvectors of its Gram matrix in float64. Each factor gets the square root of the singular values.
    """
    left, middle, right = _core(delta, name)
    flat = middle.shape[0] <= middle.shape[1]
    core = middle if flat else middle.T
    _, vectors = torch.linalg.eigh(core @ core.T)
    u = vectors[:, -min(rank, core.shape[0]) :].flip(1)
    rows = u.T @ core  # singular value times right-singular vector, row by row
    root = rows.norm(dim=1).sqrt()  # of the singular values
    v = rows / torch.where(root > 0, root, torch.ones_like(root))[:, None]
    a, b = (v, u * root) if flat else ((u * root).T, v.T)
    a = a if right is None else a @ right.T
    b = b if left is None else left @ b
    return balance(a.float().cpu(), b.float().cpu())


def _core(delta: Delta, name: str) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Q, M, P in float64 with delta = Q M P^T; Q and P have orthonormal columns, or are None for the identity."""
    where = algebra_device()
    if name not in delta.dense:
        a, b = (factor.to(where, torch.float64) for factor in _stacked(delta, name))
        if a.shape[0] < min(a.shape[1], b.shape[0]):
            (q, r), (p, s) = torch.linalg.qr(b), torch.linalg.qr(a.T)
            return q, r @ s.T, p
        return None, b @ a, None
    matrix = delta.module(name)
    assert matrix is not None
    return None, matrix.to(where, torch.float64), None


def relative_error(delta: Delta, name: str, written: Tensor | Pair) -> float:
    """|written - delta| / |delta| of one module in the Frobenius norm; `written` is a matrix or a pair of factors."""
    where = algebra_device()
    exact = _exact(delta, name, where)
    if isinstance(written, tuple):
        a, b = (factor.to(where, torch.float64) for factor in written)
        approximate = b @ a
    else:
        approximate = written.to(where, torch.float64)
    size = float(exact.norm())
    return float((approximate - exact).norm()) / size if size else float(approximate.norm())


def _exact(delta: Delta, name: str, where: torch.device) -> Tensor:
    """The delta in float64, so that the error of float32 files can be measured too."""
    total = torch.zeros((), dtype=torch.float64, device=where)
    for term in delta.terms:
        if name in term.a:
            a, b = term.a[name].to(where, torch.float64), term.b[name].to(where, torch.float64)
            total = total + term.scale * (b @ a)
    return total + delta.dense[name].to(where, torch.float64) if name in delta.dense else total
