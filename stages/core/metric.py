"""What a metric is: a score for each picture. Most embed pictures; the comparison of vectors is written here, once."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from stages.core.registry import Registry
from stages.runtime.faults import ConfigFault
from stages.runtime.strict import Strict


class Metric(Strict, ABC):
    """Scores pictures. Its fields are its options in params.yaml."""

    # What a score says: how much a picture is like the concept's reference pictures, or how well it fits its prompt.
    compares_with: ClassVar[Literal["references", "prompt"]] = "references"

    @property
    @abstractmethod
    def encoder(self) -> str:
        """Names what computes the scores, with the sha256 of its weights if it has any; recorded with the scores."""

    @property
    def recognises(self) -> bool:
        """Whether a picture can be compared with every concept of a study, as `report.identity` has to.

        A picture is scored when only the concepts learnt so far are known, so this needs vectors that are stored.
        """
        return False

    @abstractmethod
    def score(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompt: str) -> Tensor:
        """One finite number per picture, [n] float64 on the CPU. Higher is better: a distance d is returned as 1 - d.

        Args:
            pictures: RGB pictures sampled with one prompt, at most 64 at a time.
            references: RGB pictures of the concept, at least one, perhaps of other sizes than `pictures`.
            prompt: what the pictures were sampled with.
        """


class EmbeddingMetric(Metric):
    """A metric that embeds each picture by itself: the score is a cosine, and the vectors are stored.

    It answers `embed`, and `embed_text` if it compares with the prompt. Metrics with the same `encoder` share vectors,
    so `encoder` must name everything that changes them.
    """

    @property
    def recognises(self) -> bool:
        return self.compares_with == "references"

    @abstractmethod
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as unit vectors [n, d], float32, on the CPU."""

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts as unit vectors [n, d], float32, on the CPU; only for metrics that compare with the prompt."""
        raise NotImplementedError(f"{type(self).__name__} does not embed prompts")

    def score(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompt: str) -> Tensor:
        vectors = self.embed(pictures)
        if self.compares_with == "prompt":
            return cosines(vectors, self.embed_text([prompt] * len(pictures)))
        return pairwise(vectors, self.embed(references))


metrics: Registry[Metric] = Registry("metric", "stages.metrics")


def metric_of(key: str, entry: Mapping[str, Any], folder: str) -> Metric:
    """The metric of one entry of score.metrics: of the class that `is` names, otherwise of that called as its key.

    Args:
        folder: where its `path` starts from.

    Raises:
        ConfigFault: there is no such class, or an option is unknown, missing or out of range.
    """
    options, where = dict(entry), f"score.metrics.{key}: "
    name = options.pop("is", key)
    if not isinstance(name, str):
        raise ConfigFault(f"{where}'is' has to name a metric, found {name!r}.")
    if "path" in options:
        options["path"] = f"{folder}/{options['path']}"
    return metrics.get(name, options, where)


def pairwise(images: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each of n pictures with all m references, [n].

    Its mean is the score as published: the mean over all pairs (arXiv 2410.04891, section 4; reference code,
    eval/metrics.py).
    """
    return (images.double() @ references.double().T).mean(1).to(torch.float64)


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each of n pictures with its own text, [n]."""
    return (images.double() * texts.double()).sum(1)
