"""Muon for matrices and filters, Adam for the rest: about half the steps that Adam alone needs on such small models."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch import distributed as dist


def orthogonalise(m: Tensor, steps: int = 5) -> Tensor:
    """Moves the singular values of matrices m [n, rows, columns] near 1: Muon's quintic iteration (Jordan, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m / (m.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    # Half of float32's digits are enough for a direction, and many processors multiply them several times as fast.
    x = (x.mT if tall else x).bfloat16()
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).to(m.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; filters count as matrices [out, in * height * width]."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """If several processes train together, each computes its share of the updates, and the shares are summed."""
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            heaps: dict[torch.Size, list[int]] = {}
            for i, p in enumerate(params):
                heaps.setdefault(p.flatten(1).shape, []).append(i)
            updates = [torch.empty(0)] * len(params)
            for n, (shape, members) in enumerate(heaps.items()):
                mine = n % processes == rank
                found = self._heap([params[i] for i in members], shape, group["momentum"], mine)
                for i, update in zip(members, found, strict=True):
                    updates[i] = update.view_as(params[i])
            if processes > 1:
                updates = _summed(updates)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, updates, alpha=-group["lr"])

    def _heap(self, params: list[Tensor], shape: torch.Size, momentum: float, mine: bool) -> Tensor:
        """The updates [n, rows, columns] of weights of one shape; zeros if another process computes them."""
        for p in params:
            self.state[p].setdefault("speed", torch.zeros_like(p)).lerp_(p.grad, 1 - momentum)  # type: ignore[arg-type]
        if not mine:
            return torch.zeros((len(params), *shape), device=params[0].device)
        steered = [p.grad.lerp(self.state[p]["speed"], momentum).flatten(1) for p in params]  # type: ignore[union-attr]
        return max(1.0, shape[0] / shape[1]) ** 0.5 * orthogonalise(torch.stack(steered))


def _summed(updates: list[Tensor]) -> list[Tensor]:
    together = torch.cat([u.flatten() for u in updates])
    dist.all_reduce(together)
    parts = together.split([u.numel() for u in updates])
    return [part.view_as(u) for part, u in zip(parts, updates, strict=True)]


def optimisers(model: torch.nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for every weight with two or more axes but the embeddings and the outermost layers, Adam for the others."""
    outer = ("embedding", "conv_in", "conv_out", "quant_conv")
    learnt = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in learnt if p.ndim > 1 and not any(o in n for o in outer)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in learnt if id(p) not in chosen]
    return [Muon(matrices, lr=muon_lr), torch.optim.Adam(rest, lr=adam_lr, betas=(0.9, 0.98), foreach=True)]
