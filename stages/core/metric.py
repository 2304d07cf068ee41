"""What a metric is: an embedding of pictures. The comparison of embeddings is written once, here."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from stages.core.registry import Registry
from stages.runtime.strict import Strict


class Metric(Strict, ABC):
    """Embeds pictures, and texts where it compares with the prompt instead of with reference pictures."""

    @property
    @abstractmethod
    def encoder(self) -> str:
        """Name and sha256 of the weights behind it: metrics with the same encoder share embeddings."""

    @abstractmethod
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as unit vectors [n, d], float32, on the CPU."""

    def embed_text(self, prompts: Sequence[str]) -> Tensor | None:
        """Prompts as unit vectors [n, d]; None, unless this metric compares with the prompt."""
        return None


metrics: Registry[Metric] = Registry("metric", "stages.metrics")


def pairwise(images: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each of n pictures with all m references, [n].

    Its mean is the score as published: the mean over all pairs (arXiv 2410.04891, section 4; reference code,
    eval/metrics.py).
    """
    return (images.double() @ references.double().T).mean(1).to(torch.float64)
