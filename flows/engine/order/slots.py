"""Where stages run: one slot per GPU, per group of GPUs that train together, or per core; no result depends on it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.runtime.environment import device_name, number
from stages.runtime.faults import ConfigFault, MachineFault, nearest
from stages.runtime.process import cores

if TYPE_CHECKING:
    from stages.core.params import Params

SHARING = 2  # workers on a GPU that is shared
APPLES = "mps"
HIDDEN = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that hide every GPU; the last one is Slurm's


@dataclass(frozen=True)
class Slots:
    """`jobs` slots, spread over these GPUs or, without any, over the cores.

    devices: the GPUs of one slot each, as in CUDA_VISIBLE_DEVICES: several if a training has several processes.
    free: bytes of memory free on each GPU, if a second stage may run on it (see `Room`); empty if not.
    """

    jobs: int
    devices: tuple[str, ...] = ()
    free: tuple[int, ...] = ()

    @property
    def workers(self) -> int:
        """Workers at most."""
        return self.jobs * SHARING if self.free else self.jobs

    def device(self, slot: int) -> str:
        """The GPUs that the worker in a slot uses; without any, its own slot."""
        return self.devices[slot % len(self.devices)] if self.devices else f"slot {slot}"

    def environment(self, slot: int) -> dict[str, str]:
        """Environment variables of the worker in a slot, which sees no other GPUs."""
        if self.devices == (APPLES,):
            return {}
        kind = device_name().partition(":")[0]  # cuda:1 is the worker's only GPU, its cuda:0
        return {"CUDA_VISIBLE_DEVICES": self.device(slot) if self.devices else "", "PALIMPSEST_DEVICE": kind}


def slots_of(params: Params, jobs: int | None = None, devices: str | None = None) -> Slots:
    """The slots of a study's run: as `slots`, with as many GPUs each as its largest training has processes."""
    return slots(jobs, devices, max(params.training(name).processes for name in params.strategies))


def slots(jobs: int | None, devices: str | None, each: int = 1) -> Slots:
    """The slots from the command line or the environment; by default one per GPU, or per core without a GPU.

    Args:
        jobs: number of slots; None or 0: PALIMPSEST_JOBS, or the default.
        devices: GPUs as in CUDA_VISIBLE_DEVICES; None: that variable, or all GPUs.
        each: GPUs of a slot.

    Raises:
        ConfigFault: the number of jobs is not one, or a GPU that is named does not exist.
        MachineFault: there are fewer GPUs than `each`.
    """
    if jobs is not None and jobs < 0:
        raise ConfigFault(f"--jobs {jobs}: must be at least 1.")
    wanted = jobs or number("PALIMPSEST_JOBS")
    kind, _, index = device_name().partition(":")
    if kind in ("cpu", APPLES) and devices not in (None, *HIDDEN):
        raise ConfigFault(f"--devices {devices}: PALIMPSEST_DEVICE is {kind}, which uses none of them. Unset one.")
    if kind == APPLES:
        from stages.runtime.device import named

        named()
        return Slots(wanted or 1, (APPLES,))
    free = {} if kind == "cpu" else _gpus(devices)
    names = list(free)
    if kind == "cuda":
        if int(index or 0) >= len(names):
            raise ConfigFault(f"PALIMPSEST_DEVICE: {device_name()}, but there are {len(names)} GPUs to use. Unset it.")
        names = [names[int(index)]] if index else names
    if 0 < len(names) < each:
        raise MachineFault(
            f"train.processes: is {each}, but there is only GPU {', '.join(names)}. Provide as many, or lower it."
        )
    groups = tuple(",".join(names[i : i + each]) for i in range(0, len(names) - each + 1, each))
    shared = () if wanted or each > 1 or not all(free[name] for name in names) else tuple(free[name] for name in names)
    return Slots(wanted or len(groups) or cores(), groups, shared)


def _gpus(devices: str | None) -> dict[str, int]:
    """Bytes of free memory of the GPUs to use, by the names that the user gives them; 0 if unknown, or if a GPU takes
    only one process.

    Raises:
        ConfigFault: a GPU does not exist, or is named twice.
    """
    source = "CUDA_VISIBLE_DEVICES" if devices is None else "--devices"
    listed = os.environ.get(source) if devices is None else devices
    if listed is not None and listed.strip() in HIDDEN:
        return {}
    free = _free_memory()
    numbers = [name for name in free if name.isdigit()]
    if listed is None or (devices is None and not free):  # without GPUs, the variable may name any
        return {name: free[name] for name in numbers}
    names = [name for name in map(str.strip, listed.split(",")) if name]
    for name in names:
        uuid = name.startswith("MIG-") or any(known.startswith(name) for known in free if name.startswith("GPU-"))
        if not free or not (name in free or uuid):  # parts of a GPU (MIG) are not listed, and UUIDs may be shortened
            raise ConfigFault(f"{source}: there is no GPU '{name}'. {nearest(name, numbers)}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigFault(f"{source}: names GPU {twice} twice. For two stages at a time on it: --jobs 2.")
    return {name: free.get(name, 0) for name in names}


def _free_memory() -> dict[str, int]:
    """Bytes of free memory by GPU, by index and again by UUID; 0 if unknown, or if it takes only one process."""
    rows = nvidia_smi("index", "uuid", "memory.free", "compute_mode")
    if rows is None:
        return _seen_by_torch()
    free = {}
    for index, uuid, mib, mode in rows:
        free[index] = free[uuid] = (int(mib) << 20) if mib.isdigit() and mode == "Default" else 0
    return free


def _seen_by_torch() -> dict[str, int]:
    """The GPUs of a machine without nvidia-smi, as are some containers and those with AMD's, without their memory."""
    import torch

    listed, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    names = [str(i) for i in range(count)] if listed is None else [name.strip() for name in listed.split(",")]
    return dict.fromkeys(names[:count], 0)


def nvidia_smi(*fields: str) -> list[list[str]] | None:
    """What nvidia-smi says of each GPU, its index first; None if there is none, or if it fails.

    Warnings, which it prints among the GPUs, are left out.
    """
    try:
        process = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if process.returncode:
        return None
    rows = [[value.strip() for value in line.split(",")] for line in process.stdout.splitlines()]
    return [row for row in rows if len(row) == len(fields) and row[0].isdigit()]
