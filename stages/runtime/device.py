"""The device and its numerical settings. They depend on the machine, never on the parameters."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

from stages.runtime import instruction_set
from stages.runtime.environment import device_name, integer, number
from stages.runtime.faults import ConfigFault, MachineFault

log = logging.getLogger("palimpsest")
Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def device() -> torch.device:
    """Returns PALIMPSEST_DEVICE (cpu, cuda, cuda:1, mps) if it is set, otherwise the first GPU, otherwise the CPU.

    Apple's GPU (mps) is used only if it is named: its numbers are not those of a CPU.

    Also turns on deterministic kernels, and sets the number of CPU threads to PALIMPSEST_THREADS, by default one. Not
    one per core: sums of floats depend on how they are split, and the cores are better used by other runs. The
    instruction set is fixed already: see `instruction_set`.

    Raises:
        ConfigFault: one of these variables or PALIMPSEST_INSTRUCTIONS has an impossible value.
    """
    _exact()
    if warning := instruction_set.check():
        log.warning("%s", warning)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # use_deterministic_algorithms would also import torch's compiler, a third of a stage's start-up time.
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    torch.set_deterministic_debug_mode("warn")
    # Filling new memory is a debugging aid that slows every allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(number("PALIMPSEST_THREADS"))
    chosen = named() or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.type == "cuda" and integer("WORLD_SIZE", default=1, least=1) > 1:
        torch.cuda.set_device(_of_this_process())
        return torch.device("cuda")
    if chosen.index is not None and chosen.type == "cuda":  # streams, events and graphs are those of the current one
        torch.cuda.set_device(chosen)
    return chosen


def named() -> torch.device | None:
    """Returns the device of PALIMPSEST_DEVICE; None if it is not set. Uses no memory of it.

    Raises:
        ConfigFault: torch sees no such device.
    """
    if not (name := device_name()):
        return None
    chosen = torch.device(name)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigFault(f"PALIMPSEST_DEVICE: {name}, but torch sees {torch.cuda.device_count()} GPUs. Unset it.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigFault(f"PALIMPSEST_DEVICE: {name}, but torch sees no GPU of Apple's. Unset it.")
    return chosen


def _of_this_process() -> int:
    """The index of this process's own GPU in a training of several processes."""
    rank, count = integer("LOCAL_RANK", default=0, least=0), torch.cuda.device_count()
    if rank >= count:
        raise ConfigFault(f"LOCAL_RANK: is {rank}, but torch sees {count} GPUs. Start no more processes than GPUs.")
    return rank


def _exact() -> bool:
    return number("PALIMPSEST_EXACT") == 1


@contextmanager
def exact_kernels() -> Iterator[None]:
    """Within the block, if PALIMPSEST_EXACT is 1, torch uses only kernels that add in the same order every time.

    By default it prefers them, but on a GPU the backward pass of attention is faster without a fixed order: cuDNN's,
    which has none, and flash's, which has it only if kernels without are refused.

    Raises:
        MachineFault: an operation has no such kernel on this device.
    """
    if not _exact():
        yield
        return
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        operation = str(error).split(" does not have", 1)[0].splitlines()[0]
        raise MachineFault(
            f"PALIMPSEST_EXACT: on this device {operation} has no kernel that adds in a fixed order. Unset it."
        ) from None
    finally:
        torch.set_deterministic_debug_mode(before)


def reproducible() -> bool:
    """Whether a training repeats to the last bit on this device: on a GPU only if PALIMPSEST_EXACT is 1."""
    return device().type != "cuda" or _exact()


def allow_tf32(allowed: bool) -> None:
    """Sets whether convolutions on a GPU may round their inputs to TF32, as torch does by default; matrix products may
    not in either case."""
    torch.backends.cudnn.allow_tf32 = allowed


def algebra_device() -> torch.device:
    """Returns where deltas are merged and decomposed: the device, or the CPU if the device has no float64."""
    return torch.device("cpu") if device().type == "mps" else device()


def free_memory() -> None:
    """Gives memory of the device that is no longer used back to the system."""
    if device().type in ("cuda", "mps"):
        getattr(torch, device().type).empty_cache()


def memory_of(on: torch.device) -> int:
    """Bytes of the device's memory; on a CPU, of the machine's."""
    if on.type == "cuda":
        return int(torch.cuda.get_device_properties(on).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def worker_threads() -> int:
    """Returns how many threads read, resize or write pictures; the number changes no picture.

    With a GPU, up to eight cores, so that the GPU does not wait. On a CPU, as many as torch uses: other runs need the
    rest.
    """
    return min(8, os.cpu_count() or 1) if device().type == "cuda" else torch.get_num_threads()


def parallel_map(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Applies `work` to each item in `worker_threads` threads and returns the results in the items' order."""
    if worker_threads() == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(worker_threads()) as pool:
        return list(pool.map(work, items))
