"""The training loop of the recipes: for a given time, on a GPU or in one-thread processes that share their gradients,
with an average of the weights and with checkpoints from which a killed run continues."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from data.world.recipes import checkpoint
from data.world.recipes.optimiser import optimisers

LONGEST_STEP = 20.0  # seconds; a process that was halted for longer has not trained meanwhile
CACHE = Path(os.environ.get("WORLD_CACHE", ".cache/world"))


@dataclass(frozen=True)
class Run:
    """How long and where to train: `seconds` in all, killed runs included; `rank` of `processes`."""

    seconds: float
    device: str = "cpu"
    rank: int = 0
    processes: int = 1
    save_every: float = 90.0  # seconds


@contextmanager
def brief(device: str) -> Iterator[None]:
    """Convolutions and products of matrices in bfloat16, which new processors and GPUs compute in half the time."""
    # On a CPU the backward pass of the fused attention takes five times as long in bfloat16 as that of the plain one.
    kernels = [SDPBackend.MATH]
    if device != "cpu":
        kernels += [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with torch.autocast(device.split(":")[0], torch.bfloat16), sdpa_kernel(kernels):
        yield


def share_of_rate(step: int, progress: float, warmup: int = 100, decay: float = 0.35) -> float:
    """The share of the full learning rate: a warm-up, a constant part, and a linear decay over the last part."""
    return min(1.0, (step + 1) / warmup, max(0.0, (1 - progress) / decay))


def _agree(model: nn.Module, progress: float, processes: int) -> float:
    """Averages the gradients and the progress over the processes, so that all take the same step."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in grads), torch.tensor([progress])])
    dist.all_reduce(flat)
    flat /= processes
    for g, mean in zip(grads, flat.split([*(g.numel() for g in grads), 1]), strict=False):
        g.copy_(mean.view_as(g))
    return float(flat[-1])


def _join(name: str, run: Run) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + sum(name.encode()) % 400)}
    dist.init_process_group("gloo", rank=run.rank, world_size=run.processes)


def _set_rates(opts: list[Optimizer], full_rates: list[list[float]], share: float) -> None:
    for opt, rates in zip(opts, full_rates, strict=True):
        for group, rate in zip(opt.param_groups, rates, strict=True):
            group["lr"] = rate * share


def _update(model: nn.Module, opts: list[Optimizer]) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        opt.step()
        opt.zero_grad(set_to_none=True)


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, keep: float) -> None:
    """Moves the average towards the weights as they are now; counters are copied."""
    now = model.state_dict()
    floating = [k for k, v in now.items() if v.is_floating_point()]
    torch._foreach_lerp_([average[k] for k in floating], [now[k] for k in floating], 1 - keep)
    for key in now.keys() - set(floating):
        average[key].copy_(now[key])


def _report(name: str, step: int, loss: float, pace: float, left: float) -> None:
    print(f"{name} step {step} loss {loss:.4f}, {pace:.3f} s/step, {left / 60:.1f} min left", flush=True)


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    lrs: tuple[float, float],
    run: Run,
    smoothing: float = 0.999,
) -> dict[str, Tensor]:
    """Trains until the run's seconds are over and returns the averaged weights.

    `loss` draws its batch from the generator that it is given, which depends only on the step and the process.
    """
    if run.device == "cpu":
        torch.set_num_threads(1)
    if run.processes > 1:
        _join(name, run)
    opts = optimisers(model.to(run.device), *lrs)
    full_rates = [[group["lr"] for group in opt.param_groups] for opt in opts]
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    step, before = checkpoint.restore(CACHE / name, model, average, opts)
    first, spent, saved, shown = step, 0.0, 0.0, torch.zeros((), device=run.device)
    last = time.monotonic()
    while before < run.seconds:
        value = loss(torch.Generator(run.device).manual_seed(1_000_003 * step + run.rank))
        value.backward()  # type: ignore[no-untyped-call]
        now = time.monotonic()
        spent += min(now - last, LONGEST_STEP)
        last = now
        progress = (before + spent) / run.seconds
        if run.processes > 1:
            progress = _agree(model, progress, run.processes)
        _set_rates(opts, full_rates, share_of_rate(step, progress))
        _update(model, opts)
        # At the beginning the average is over fewer steps, so that it soon forgets the random weights.
        _follow(average, model, min(smoothing, (step + 1) / (step + 10)))
        shown = shown.lerp(value.detach(), 0.02 if step > first else 1.0)
        step += 1
        over = progress >= 1
        if run.rank == 0 and (over or spent - saved > run.save_every):
            saved = spent
            checkpoint.save(CACHE / name, model, average, opts, step, before + spent)
            _report(name, step, float(shown), spent / (step - first), run.seconds - before - spent)
        if over:
            break
    if run.processes > 1:
        dist.destroy_process_group()
    return average
