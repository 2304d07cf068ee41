"""How adapters are trained: section `train` of params.yaml."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, field_validator

from stages.core.family import TrainingOptions
from stages.runtime.strict import Strict, omit_default

Beta = Annotated[float, Field(ge=0, lt=1)]


class Prior(Strict):
    """Prior preservation (DreamBooth, arXiv 2208.12242): pictures of the class, sampled from the base itself, are
    trained on too, so that the class does not turn into the one concept that is learned."""

    images: int = Field(100, ge=1)  # pictures of the class, made once for each base and prompt
    weight: float = Field(1.0, gt=0)  # of their loss
    batch: int = Field(1, ge=1)  # of them in a step, beside the others
    prompt: str | None = None  # {} stands for the class; without it, the training prompt without the token


def _number_or_rank(value: Any) -> float | Literal["rank"]:
    if value == "rank":
        return "rank"
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError("must be a number above 0, or rank")
    return float(value)


class Train(TrainingOptions):
    rank: int = Field(ge=1, le=4096)
    # The adapter's delta is alpha / rank * B A. `rank`: equal to it, so that a sweep of ranks keeps the scale.
    alpha: Annotated[float | Literal["rank"], PlainValidator(_number_or_rank)]
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # how the rate falls to zero, if it does
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    epsilon: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, gt=0)
    reinit: Literal["shared", "per_task"]  # does every task draw the same A, as published, or its own?
    # Has every task noise, times and an order of pictures of its own, or the same ones, as published?
    draws: Literal["per_task", "shared"] = omit_default("per_task")
    optimiser: Literal["adamw", "adamw8bit"] = omit_default("adamw")  # 8 bits, as published: moments of fewer bits
    checkpoint_every: int = Field(ge=1)  # steps
    prior: Prior | None = None
    processes: int = Field(1, ge=1, le=64)  # GPUs that share a step's pictures; more than `batch` are of no use

    @property
    def alpha_number(self) -> float:
        """The value of alpha."""
        return float(self.rank) if self.alpha == "rank" else self.alpha

    @field_validator("optimiser")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        if value == "adamw8bit" and find_spec("bitsandbytes") is None:
            raise ValueError("adamw8bit needs another package: pip install bitsandbytes")
        return value
