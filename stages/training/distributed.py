"""Several processes for one training, one per GPU: each takes its share of a step's pictures, and gradients are summed.

The processes are told apart by the environment that torchrun and `accelerate launch` set too. They work on one machine
and one workspace; the first of them leads: it alone writes. Sums of floats depend on how they are split, so the number
of processes is a parameter (train.processes) and not a matter of the machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stages.runtime.device import device
from stages.runtime.faults import ConfigFault, Fault, MachineFault, Preempted

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # for one that samples while the others wait


class Team:
    """This process among those of one training; a process by itself is a team of one."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device().type == "cuda" else "gloo", timeout=PATIENCE)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> list[T]:
        return list(rows[self.rank :: self.size])

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each by its sum over all processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes; all of them must ask."""
        if self.size == 1:
            return flag
        told = torch.tensor(float(flag), device=device())
        dist.all_reduce(told)
        return bool(told > 0)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Runs the block in the leader, then in the others, who find what it has made."""
        if self.size > 1 and not self.leads:
            dist.barrier()
        yield
        if self.size > 1 and self.leads:
            dist.barrier()


@cache
def team() -> Team:
    return Team(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def assembled(processes: int) -> bool:
    """Whether this process is one of so many already.

    Raises:
        ConfigFault: it was started as one of another number.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size not in (1, processes):
        raise ConfigFault(f"train.processes: is {processes}, but {size} were started. Make the two equal.")
    return size == processes


def assemble(processes: int, command: Sequence[str]) -> None:
    """Runs `python *command` in so many processes and waits for all of them; SIGTERM is passed on.

    Raises:
        Fault: one of them failed; of the same exit code, after it has said why. The others are stopped.
        MachineFault: there are not so many GPUs here.
    """
    if device().type == "cuda" and torch.cuda.device_count() < processes:
        seen = torch.cuda.device_count()
        raise MachineFault(f"train.processes: is {processes}, {seen} GPUs can be seen here. Give it as many GPUs.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    fixed = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    members = [
        subprocess.Popen([sys.executable, *command], env={**os.environ, **fixed, "RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(processes))
    ]

    def pass_on(*_: object) -> None:
        for member in members:
            member.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        while any(member.poll() is None for member in members):
            if any(member.poll() for member in members):  # the others would wait for it for ever
                time.sleep(5)
                for member in members:
                    member.kill()
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, before)
        for member in members:
            member.kill()
    codes = [member.wait() for member in members]
    if any(codes):  # the one that said why rather than one that was killed for it
        raise _fault(max(codes) if max(codes) > 0 else -min(codes))


def _fault(code: int) -> Fault:
    kinds = {kind.code: kind for kind in Fault.__subclasses__() if kind is not MachineFault}
    if code == Preempted.code:
        return Preempted("stopped and saved. Run it again to go on.")
    return kinds.get(code, MachineFault)(f"one of the processes of train.processes ended with {code}; see above.")
