"""The interface of a metric: a score per picture. Metrics that embed pictures share the comparison of vectors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from stages.core.registry import Registry
from stages.files.yaml import JUDGES
from stages.runtime.faults import ConfigFault
from stages.runtime.strict import Strict


class Metric(Strict, ABC):
    """Scores pictures. Its fields are its options in params.yaml."""

    # What the score measures: similarity to the concept's reference pictures, or to the prompt.
    compares_with: ClassVar[Literal["references", "prompt"]] = "references"

    @property
    @abstractmethod
    def encoder(self) -> str:
        """Identifies what computes the scores, with the sha256 of its weights, if any; recorded with the scores."""

    @property
    def recognises(self) -> bool:
        """Whether the metric can recognise a picture's concept among all, as `report.identity` requires.

        Pictures are scored before later concepts are learned, so this needs stored vectors.
        """
        return False

    @abstractmethod
    def score(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompt: str) -> Tensor:
        """Returns one finite number per picture, [n] float64 on the CPU. Higher is better: a distance d becomes 1 - d.

        Args:
            pictures: RGB pictures sampled with one prompt, at most 64 at a time.
            references: RGB pictures of the concept, at least one, perhaps of other sizes than `pictures`.
            prompt: the prompt that the pictures were sampled with.
        """


class EmbeddingMetric(Metric):
    """A metric that embeds each picture by itself: the score is a cosine, and the vectors are stored.

    Subclasses implement `embed`, and `embed_text` if they compare with the prompt. Metrics with the same `encoder`
    share vectors, so `encoder` must name everything that changes them.
    """

    @property
    def recognises(self) -> bool:
        return self.compares_with == "references"

    @abstractmethod
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Returns the pictures as unit vectors, [n, d], float32 on the CPU."""

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Returns prompts as unit vectors, [n, d], float32 on the CPU; needed only to compare with the prompt."""
        raise NotImplementedError(f"{type(self).__name__} does not embed prompts")

    def score(self, pictures: Sequence[Image.Image], references: Sequence[Image.Image], prompt: str) -> Tensor:
        vectors = self.embed(pictures)
        if self.compares_with == "prompt":
            return cosines(vectors, self.embed_text([prompt] * len(pictures)))
        return pairwise(vectors, self.embed(references))


metrics: Registry[Metric] = Registry("metric", "stages.metrics")


def metric_of(key: str, entry: Mapping[str, Any], folder: str) -> Metric:
    """Makes the metric of one entry of score.metrics: of the class that `is` names, by default that of the key.

    Args:
        key: the entry's key.
        entry: the entry: the metric's options, and perhaps `is`.
        folder: score.judges, to which its options that name weights are relative.

    Raises:
        ConfigFault: there is no such class, or an option is unknown, missing or out of range.
    """
    options, where = dict(entry), f"score.metrics.{key}: "
    name = options.pop("is", key)
    if not isinstance(name, str):
        raise ConfigFault(f"{where}'is' must be the name of a metric, found {name!r}.")
    for option in JUDGES.intersection(options):
        if ".." in PurePosixPath(str(options[option])).parts:
            raise ConfigFault(f"{where}{option}: leads out of score.judges, the folder whose changes DVC notices.")
        options[option] = f"{folder}/{options[option]}"
    return metrics.get(name, options, where)


def pairwise(images: Tensor, references: Tensor) -> Tensor:
    """Returns the mean cosine of each picture with all references, [n] float64.

    The mean of these is the published score, the mean over all pairs (arXiv 2410.04891, section 4; reference code,
    eval/metrics.py).

    Args:
        images: unit vectors, [n, d].
        references: unit vectors, [m, d].
    """
    return (images.double() @ references.double().T).mean(1).to(torch.float64)


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Returns the cosine of each picture with its own text, [n] float64; both are unit vectors, [n, d]."""
    return (images.double() * texts.double()).sum(1)
