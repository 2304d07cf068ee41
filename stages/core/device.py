"""Which device, and how exactly it computes: a matter of the machine, never of the parameters."""

import os
from functools import cache

import torch


@cache
def device() -> torch.device:
    """PALIMPSEST_DEVICE where it is set, otherwise the first GPU, otherwise the CPU.

    Deterministic kernels from here on, and on a CPU as many threads as PALIMPSEST_THREADS says: one, unless it says
    something else. Not as many as there are cores: sums of floats depend on how they are split, and the cores are
    better spent on other runs.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
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
