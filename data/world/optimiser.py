"""Muon for matrices and filters, Adam for the rest: about half the steps that Adam alone needs on such small models."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch import distributed as dist


def orthogonalise(m: Tensor, steps: int = 5) -> Tensor:
    """Moves the singular values of m [rows, columns] near 1: Muon's quintic Newton-Schulz iteration (Jordan, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m / (m.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; filters are taken as matrices [out, in * height * width]."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Where several processes train together, each works out its share of the updates, and they are added up."""
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            updates = [torch.zeros_like(p) for p in params]
            for i, (p, update) in enumerate(zip(params, updates, strict=True)):
                speed = self.state[p].setdefault("speed", torch.zeros_like(p))
                speed.lerp_(p.grad, 1 - group["momentum"])
                if i % processes == rank:
                    flat = p.grad.lerp(speed, group["momentum"]).flatten(1)
                    scale = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
                    update.copy_(scale * orthogonalise(flat).view_as(p))
            if processes > 1:
                together = torch.cat([u.flatten() for u in updates])
                dist.all_reduce(together)
                updates = [
                    t.view_as(p) for t, p in zip(together.split([p.numel() for p in params]), params, strict=True)
                ]
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, updates, alpha=-group["lr"])


def optimisers(model: torch.nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for every weight with two or more axes but the embeddings and the outermost layers, Adam for the others."""
    outer = ("embedding", "conv_in", "conv_out", "quant_conv")
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and not any(o in n for o in outer)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(matrices, lr=muon_lr), torch.optim.Adam(rest, lr=adam_lr, betas=(0.9, 0.98))]
