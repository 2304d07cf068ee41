"""One training on several GPUs, one process each: a step's pictures are divided, and gradients are summed.

Rank and number of processes come from the environment variables that torchrun and `accelerate launch` set too. All
processes run on one machine in one workspace; only the leader (rank 0) writes. Sums of floats depend on how they are
split, so the number of processes is a parameter (train.processes) and does not depend on the machine.
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
from stages.runtime.environment import integer
from stages.runtime.faults import ConfigFault, Fault, MachineFault, Preempted

T = TypeVar("T")
TIMEOUT = timedelta(hours=2)  # the others wait while the leader samples


class ProcessGroup:
    """This process among those of one training.

    Args:
        rank: of this process, from 0.
        size: number of processes; 1: not distributed.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device().type == "cuda" else "gloo", timeout=TIMEOUT)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> list[T]:
        """This process's rows of a step."""
        return list(rows[self.rank :: self.size])

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must call this."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=device())
        dist.all_reduce(flags)
        return bool(flags > 0)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Runs the block in the leader, then in the others, so that they can use its results."""
        if self.size > 1 and not self.leads:
            dist.barrier()
        yield
        if self.size > 1 and self.leads:
            dist.barrier()


@cache
def process_group() -> ProcessGroup:
    """The group of this process; errors as in `_place`."""
    return ProcessGroup(*_place())


def _place() -> tuple[int, int]:
    """This process's rank and the number of processes, from RANK and WORLD_SIZE.

    Raises:
        ConfigFault: they are no such numbers.
    """
    rank, size = integer("RANK", default=0, least=0), integer("WORLD_SIZE", default=1, least=1)
    if rank >= size:
        raise ConfigFault(f"RANK: is {rank}, but WORLD_SIZE is {size}. Unset both: train.processes sets them.")
    return rank, size


def launched(processes: int) -> bool:
    """Whether this process is already one of `processes`.

    Raises:
        ConfigFault: WORLD_SIZE is neither 1 nor `processes`, or RANK is not below it.
    """
    _, size = _place()
    if size not in (1, processes):
        raise ConfigFault(f"train.processes: is {processes}, but {size} were started (WORLD_SIZE). Make the two equal.")
    return size == processes


def launch(processes: int, command: Sequence[str]) -> None:
    """Runs `python *command` in `processes` processes and waits for them; forwards SIGTERM to all.

    Raises:
        Fault: a process failed; with its exit code, after it has printed the reason. The others are killed.
        MachineFault: fewer GPUs are visible than there are processes.
    """
    if device().type == "cuda" and torch.cuda.device_count() < processes:
        visible = torch.cuda.device_count()
        raise MachineFault(
            f"train.processes: is {processes}, but {visible} GPUs are visible. Provide as many GPUs, or lower it."
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    fixed = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    members = [
        subprocess.Popen([sys.executable, *command], env={**os.environ, **fixed, "RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(processes))
    ]

    def terminate(*_: object) -> None:
        for member in members:
            member.terminate()

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        while any(member.poll() is None for member in members):
            if any(member.poll() for member in members):  # the others would wait for the failed one forever
                time.sleep(5)
                for member in members:
                    member.kill()
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, before)
        for member in members:
            member.kill()
    codes = [member.wait() for member in members]
    if any(codes):  # report the process that failed by itself, not one that was killed because of it
        raise _fault(max(codes) if max(codes) > 0 else -min(codes))


def _fault(code: int) -> Fault:
    kinds = {kind.code: kind for kind in Fault.__subclasses__() if kind is not MachineFault}
    if code == Preempted.code:
        return Preempted("stopped and saved. Run it again to continue.")
    return kinds.get(code, MachineFault)(f"one of the processes of train.processes ended with {code}; see above.")
