"""The training loop of the recipes: two one-thread processes that share their gradients, an average of the weights, and
checkpoints from which a killed run goes on."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from data.world.optimiser import optimisers

CACHE = Path(".cache/world")


def schedule(step: int, steps: int, warmup: int = 100, decay: float = 0.4) -> float:
    """Warm-up, a long level stretch, and a straight way down to zero over the last part."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay * steps)))


def _share(model: nn.Module, processes: int) -> None:
    """Averages the gradients over the processes, and then limits their norm to 1."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= processes
    flat /= max(1.0, float(flat.norm()))
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def _join(name: str, rank: int, processes: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + sum(name.encode()) % 400)}
    dist.init_process_group("gloo", rank=rank, world_size=processes)


def _resume(checkpoint: Path, model: nn.Module, average: dict[str, Tensor], opts: list[Optimizer]) -> int:
    """Puts everything back to where the checkpoint left it, if there is one, and returns how many steps are done."""
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    average.update(saved["average"])
    for opt, state in zip(opts, saved["opts"], strict=True):
        opt.load_state_dict(state)
    done: int = saved["step"]
    return done


def _save(checkpoint: Path, model: nn.Module, average: dict[str, Tensor], done: int, opts: list[Optimizer]) -> None:
    """Writes beside the checkpoint and renames, so that a kill leaves the old one or the new one."""
    state = {
        "model": model.state_dict(),
        "average": average,
        "step": done,
        "opts": [opt.state_dict() for opt in opts],
    }
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").rename(checkpoint)


def _set_rates(opts: list[Optimizer], full_rates: list[list[float]], share: float) -> None:
    for opt, rates in zip(opts, full_rates, strict=True):
        for group, rate in zip(opt.param_groups, rates, strict=True):
            group["lr"] = rate * share


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, keep: float) -> None:
    """Moves the average towards the weights as they are now; counters are copied."""
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - keep)
        else:
            average[key].copy_(value)


def _report(name: str, done: int, steps: int, loss: float, rate: float) -> None:
    left = rate * (steps - done) / 60
    print(f"{name} {done}/{steps} loss {loss:.4f} {rate:.3f} s/step, {left:.0f} min left", flush=True)


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    steps: int,
    lrs: tuple[float, float],
    rank: int,
    processes: int,
    smoothing: float = 0.999,
    stop_after: float = 1e9,
) -> dict[str, Tensor]:
    """Trains until `steps`, or for `stop_after` seconds, and returns the averaged weights.

    `loss` draws its batch from the generator that it is given, which depends only on the step and the process.
    """
    torch.set_num_threads(1)
    if processes > 1:
        _join(name, rank, processes)
    opts = optimisers(model, *lrs)
    full_rates = [[group["lr"] for group in opt.param_groups] for opt in opts]
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    checkpoint, began, shown = CACHE / f"{name}.pt", time.monotonic(), 0.0
    first = _resume(checkpoint, model, average, opts)
    for step in range(first, steps):
        _set_rates(opts, full_rates, schedule(step, steps))
        value = loss(torch.Generator().manual_seed(1_000_003 * step + rank))
        value.backward()
        if processes > 1:
            _share(model, processes)
        else:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        # At the beginning the average looks back less far, so that the weights at random are soon forgotten.
        _follow(average, model, min(smoothing, (step + 1) / (step + 10)))
        shown = 0.98 * shown + 0.02 * float(value.detach()) if shown else float(value.detach())
        done, seconds = step + 1, time.monotonic() - began
        due = seconds > stop_after
        if rank == 0 and (done % 100 == 0 or due):
            _report(name, done, steps, shown, seconds / (done - first))
        if rank == 0 and (done % 500 == 0 or done == steps or due):
            _save(checkpoint, model, average, done, opts)
        if due:
            break
    return average
