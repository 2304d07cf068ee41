"""What a family is: a kind of base model, as far as training and sampling need to know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor, nn

from .registry import Registry
from .strict import Strict
from .weights import Adapter, Delta

Encodings = Mapping[str, Tensor]


class Family(Strict, ABC):
    """Its fields are its options in params.yaml: where the weights are, which revision, which number format."""

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
        """What training and sampling need of prompts, computed once."""

    @abstractmethod
    def learner(self, frozen: Delta | None, adapter: Adapter) -> Learner:
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

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser trains, in a stable order."""

    @abstractmethod
    def loss(self, images: Encodings, prompts: Encodings, seeds: Sequence[int]) -> Tensor:
        """The loss on a batch; each row's noise, time and posterior draw come from its own seed."""

    @abstractmethod
    def adapter(self) -> Adapter:
        """The adapter as it is now, float32 on the CPU."""


families: Registry[Family] = Registry("family", "stages.families")
