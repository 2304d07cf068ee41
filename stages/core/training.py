"""How adapters are trained: section `train` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.core.family import TrainingOptions
from stages.runtime.strict import Strict


class Prior(Strict):
    """Prior preservation (DreamBooth, arXiv 2208.12242): pictures of the class that the base itself makes are learnt
    along, so that the class does not turn into the one thing that is taught."""

    images: int = Field(100, ge=1)  # pictures of the class, made once for each base and prompt
    weight: float = Field(1.0, gt=0)  # of their loss
    batch: int = Field(1, ge=1)  # of them in a step, beside the others
    prompt: str | None = None  # {} stands for the class; without it, the training prompt without the token


class Train(TrainingOptions):
    rank: int = Field(ge=1, le=4096)
    alpha: float = Field(gt=0)  # the adapter's delta is alpha / rank * B A
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # how the rate falls to zero, if it does
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    epsilon: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, gt=0)
    reinit: Literal["shared", "per_task"]  # does every task draw the same A, as published, or its own?
    checkpoint_every: int = Field(ge=1)  # steps
    prior: Prior | None = None
    processes: int = Field(1, ge=1, le=64)  # GPUs that share a step's pictures; more than `batch` are of no use
