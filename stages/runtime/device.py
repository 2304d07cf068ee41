"""Which device, and how exactly it computes: a matter of the machine, never of the parameters."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def device() -> torch.device:
    """PALIMPSEST_DEVICE where it is set, otherwise the first GPU, otherwise the CPU.

    Deterministic kernels from here on, and on a CPU as many threads as PALIMPSEST_THREADS says: one, unless it says
    something else. Not as many as there are cores: sums of floats depend on how they are split, and the cores are
    better spent on other runs.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # use_deterministic_algorithms would import the compiler to tell it too, which is a third of the start of a stage.
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    torch.set_deterministic_debug_mode("warn")
    # The filling of fresh memory is a check for bugs that costs time at every allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(int(os.environ.get("PALIMPSEST_THREADS", "1")))
    chosen = os.environ.get("PALIMPSEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    member = os.environ.get("LOCAL_RANK")  # of several processes for one training, each with a GPU of its own
    if member is not None and chosen.startswith("cuda"):
        torch.cuda.set_device(int(member))
        chosen = "cuda"
    return torch.device(chosen)


def hands() -> int:
    """How many pictures to read, resize or write at once, which changes none of them: a core each beside a GPU, which
    must not wait for them; on a CPU as many as it may compute with, for the others have work of their own."""
    return min(8, os.cpu_count() or 1) if device().type == "cuda" else torch.get_num_threads()


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `work` makes of each item, in their order, in `hands` threads."""
    if hands() == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(hands()) as pool:
        return list(pool.map(work, items))
