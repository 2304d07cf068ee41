"""What a family is: a kind of base model, as far as training and sampling need to know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from PIL import Image
from pydantic import Field, StringConstraints
from torch import Tensor, nn

from stages.adapters.algebra import Adapter, Delta
from stages.core.registry import Registry
from stages.runtime.strict import Strict, unsaid

Encodings = Mapping[str, Tensor]


class Teaching(Strict):
    """What a family must know of how it is taught: options that the section `train` of params.yaml has among others."""

    layers: Literal["grouped", "peft"] = "grouped"  # LoRA in few large operations, or one layer of peft per matrix
    snr_gamma: float | None = Field(None, gt=0)  # min-SNR weighting of the loss (arXiv 2303.09556); 5 in the paper
    checkpointing: bool = False  # compute activations again rather than keep them: less memory, more time
    fixed_a: bool = unsaid(False)  # train B alone and leave A as it starts (LoRA-FA, arXiv 2308.03303)


@dataclass(frozen=True)
class Row:
    """One picture's part in a step."""

    image: int  # which of the pictures
    prompt: int  # which of the prompts describes it
    seed: int  # of its noise, its time and its draw from the posterior
    weight: float  # of its error in the loss
    rehearsed: bool = False  # is the prediction of the model without the adapter wanted, in place of the truth?


@dataclass(frozen=True)
class KnownAs:
    """What other programs call a kind of base: for adapters that are handed on to them, or come from them."""

    architecture: str = "unknown"  # as in modelspec.architecture, without its /lora
    version: str = "unknown"  # as in kohya's ss_base_model_version
    ldm_blocks: bool = False  # does kohya name this kind's blocks as LDM does (input_blocks), not as diffusers?


class Family(Strict, ABC):
    """Its fields are its options in params.yaml: where the weights are, which revision, which number format."""

    known_as: ClassVar[KnownAs] = KnownAs()

    adapter: str = ""  # a folder of stages.tools.import_lora: what the first task goes on from, and its revision
    adapter_revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names weights, revision and number format: what was encoded or sampled under one is valid only under it.

        Raises:
            InputFault: the weights are missing, or are not those of the pinned revision.
        """

    @property
    def number_format(self) -> str:
        """What sampling computes in, by its name in torch: how much of a small shift survives depends on it."""
        return "float32"

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The modules that adapters shift: name -> (out, in)."""

    @abstractmethod
    def weight(self, name: str) -> Tensor:
        """One of those modules' weights in the base, [out, in], as stored."""

    @abstractmethod
    def encode_images(self, images: Sequence[Image.Image]) -> Encodings:
        """What training needs of its pictures, computed once: the moments of the autoencoder's posterior."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        """What training and sampling need of prompts, computed once: the same whatever the base is shifted by."""

    @abstractmethod
    def learner(self, frozen: Delta | None, adapter: Adapter, options: Teaching | None = None) -> Learner:
        """The base, shifted by `frozen` and carrying the adapter, ready to be trained."""

    @abstractmethod
    def sample(
        self,
        prompts: Encodings,
        noise: Tensor,
        steps: int,
        guidance: float,
        scheduler: str,
        batch: int | None = None,
    ) -> list[Image.Image]:
        """Pictures from the model that `shift` made.

        One per row of `noise` [n, channels, height, width] and of `prompts`, `batch` of them at a time; None: all.
        """

    @abstractmethod
    def shift(self, delta: Delta) -> None:
        """Makes the model base + delta, in place: in float32, rounded once to the sampling number format."""

    @abstractmethod
    def noise_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""


class Learner(ABC):
    """A model in training. Only the adapter's matrices are trained."""

    magnify = 1.0  # by which a loss is multiplied, lest its gradient vanish in the number format; a power of two

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser trains, in a stable order."""

    @abstractmethod
    def study(self, images: Sequence[Encodings], prompts: Encodings) -> None:
        """What it is to learn from, before the first step: what stays the same in every step is computed here.

        Args:
            images: one per picture, each of one row; pictures of different sizes have encodings of different shapes.
            prompts: one row per prompt.
        """

    @abstractmethod
    def inputs(self, rows: Sequence[Row]) -> Encodings:
        """All that a step needs of these pictures, which are of one size, with their noise drawn from their seeds."""

    @abstractmethod
    def loss(self, inputs: Encodings) -> Tensor:
        """The sum of the rows' weighted errors: a function of tensors of fixed shapes, so that it can be recorded."""

    @abstractmethod
    def adapter(self) -> Adapter:
        """The adapter as it is now, float32 on the CPU."""

    @abstractmethod
    def aside(self) -> AbstractContextManager[None]:
        """Within the block the family is free for other uses, such as sampling; afterwards training goes on."""


families: Registry[Family] = Registry("family", "stages.families")
