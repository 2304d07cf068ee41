"""The row and column spaces of deltas: decompositions that stay thin where a delta has a low rank.

All of it is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from stages.adapters.algebra import Adapter, Delta, Matrices
from stages.runtime.device import algebra_device

TINY = 1e-6  # of the largest singular value: in sums that are stored in float32, what is smaller is rounding


def norm(delta: Delta) -> float:
    """The Frobenius norm over all modules together."""
    return math.sqrt(sum(float(shift.double().square().sum()) for _, shift in delta.matrices()))


def spread(delta: Delta, name: str) -> tuple[Tensor, Tensor]:
    """Columns [out, k] and rows [k, in] whose product is the delta of one module."""
    parts = [(term.b[name], term.a[name], term.scale) for term in delta.terms if name in term.a]
    columns = [scale * b.to(algebra_device(), torch.float64) for b, _, scale in parts]
    rows = [a.to(algebra_device(), torch.float64) for _, a, _ in parts]
    if name in delta.dense:
        dense = delta.dense[name].to(algebra_device(), torch.float64)
        rows.append(dense)
        columns.append(torch.eye(len(dense), dtype=torch.float64, device=dense.device))
    return torch.cat(columns, 1), torch.cat(rows)


def svd(delta: Delta, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """U [out, k], S [k] and V [in, k] of the delta of one module, without the singular values that are 0.

    Where its factors are thinner than the module, B = Q R and A^T = P T, only R T^T is decomposed.
    """
    b, a = spread(delta, name)
    (q, r), (p, t) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    u, s, vt = torch.linalg.svd(r @ t.T, full_matrices=False)
    known = s > TINY * s.max()
    return q @ u[:, known], s[known], p @ vt[known].T


def gram(b: Tensor, a: Tensor) -> Tensor:
    """X^T X [in, in] of X = B A."""
    return a.T @ ((b.T @ b) @ a)


def sensitive_rows(delta: Delta, name: str) -> Tensor:
    """Rows R [k, in] with R^T R = D^T D, D being the delta of one module: |R x| = |D x| for every input x."""
    b, a = spread(delta, name)
    rows: Tensor = torch.linalg.qr(b).R @ a
    return rows


def from_factors(factors: Mapping[str, tuple[Tensor, Tensor]]) -> Delta:
    """B [out, k] and A [k, in] of all modules as one term."""
    a_halves = {name: a.float().cpu() for name, (_, a) in factors.items()}
    return Adapter(a_halves, {name: b.float().cpu() for name, (b, _) in factors.items()}).delta


def orthonormal_rows(a: Tensor) -> Tensor:
    """Q^T of the QR decomposition of A^T, with the signs for which R has a positive diagonal: [rank, in]."""
    q, r = torch.linalg.qr(a.double().T)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0)
    rows: Tensor = (q * signs).T
    return rows.to(a.dtype)


def sylvester(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """W [m, n] with A W + W B = C, for symmetric A [m, m] and B [n, n] without negative eigenvalues.

    With A = Q diag(x) Q^T and B = P diag(y) P^T it is W = Q ((Q^T C P)_ij / (x_i + y_j)) P^T. Where x_i + y_j is 0 the
    equation says nothing, and W is 0.
    """
    (x, q), (y, p) = torch.linalg.eigh(a), torch.linalg.eigh(b)
    sums = x[:, None] + y[None, :]
    known = sums > TINY**2 * sums.max()
    inner = torch.where(known, (q.T @ c @ p) / torch.where(known, sums, 1.0), 0.0)
    solved: Tensor = q @ inner @ p.T
    return solved


def closest_to_both(old: Delta, new: Delta, name: str, weight: float) -> tuple[Tensor, Tensor]:
    """Factors of the W that minimises (1 - weight) d(W, old) + weight d(W, new).

    d(W, Y) = |S U^T (W - Y)|^2 + |(W - Y) V S|^2 with Y = U S V^T. Setting its gradient to 0 gives A W + W B = C with
    A = sum w Y Y^T, B = sum w Y^T Y and C = 2 sum w Y Y^T Y. It is solved in the column and row spaces of the two.
    """
    parts = [
        (share, *spread(delta, name)) for share, delta in ((1 - weight, old), (weight, new)) if name in delta.modules
    ]
    q, p = (torch.linalg.qr(torch.cat(sides, 1))[0] for sides in zip(*((b, a.T) for _, b, a in parts), strict=True))
    small = [(share, (q.T @ b) @ (a @ p)) for share, b, a in parts]
    left = sum((share * y @ y.T for share, y in small), torch.zeros((), dtype=q.dtype, device=q.device))
    right = sum((share * y.T @ y for share, y in small), torch.zeros((), dtype=q.dtype, device=q.device))
    wanted = sum((2 * share * y @ y.T @ y for share, y in small), torch.zeros((), dtype=q.dtype, device=q.device))
    inner = sylvester(left, right, wanted)
    return (q, inner @ p.T) if q.shape[1] <= p.shape[1] else (q @ inner, p.T)


def without(new: Adapter, old: Delta, name: str, alpha: float) -> tuple[Tensor, Tensor]:
    """Factors of a new delta X [out, in] without the main directions of the old one.

    With old = U S V^T and P, Q the projections on the first k columns of U and V, it is X - P X Q, whose rank is twice
    that of X; k is the first index at which the sum of S passes the share alpha of the whole.
    """
    u, s, v = svd(old, name)
    k = int((s.cumsum(0) / s.sum() > alpha).double().argmax()) if len(s) else 0
    b, a = spread(new.delta, name)
    return torch.cat([b, -u[:, :k] @ (u[:, :k].T @ b)], 1), torch.cat([a, (a @ v[:, :k]) @ v[:, :k].T])


def diagonal(shift: Tensor, old: Delta, name: str) -> Tensor:
    """U diag(U^T shift V) V^T [out, in] with old = U S V^T, over the singular values that are not 0."""
    u, _, v = svd(old, name)
    along: Tensor = u * (u * (shift @ v)).sum(0)
    return along @ v.T


def flattened(matrix: Tensor, steps: int) -> Tensor:
    """A matrix with the singular vectors of `matrix` and singular values closer together (Iso-C, arXiv 2502.04959).

    It is the projection of `matrix` on a matrix F: <matrix, F> / <F, F> F. Where F is U V^T, all singular values are
    the mean of those of `matrix`.

    Args:
        steps: so many Newton-Schulz steps from `matrix` towards U V^T lead to F, and each makes small values larger by
            half; 0: F is U V^T, over the singular values that are not 0.
    """
    x = matrix.to(algebra_device(), torch.float64)
    if not bool(x.any()):
        return matrix
    if steps == 0:
        u, s, vt = torch.linalg.svd(x, full_matrices=False)
        known = s > TINY * s.max()
        flat = u[:, known] @ vt[known]
    else:
        flat = x / x.norm()
        for _ in range(steps):
            flat = 1.5 * flat - 0.5 * flat @ (flat.T @ flat)
    projected: Tensor = flat * ((x * flat).sum() / flat.square().sum())
    return projected.to(matrix)


def dense(delta: Delta) -> Matrices:
    return dict(delta.matrices())
