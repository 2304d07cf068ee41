"""CSD: whether two pictures are in the same style, by a CLIP tower taught to tell styles (arXiv 2404.01292)."""

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image
from torch import Tensor, nn

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics.clip_i import WEIGHTS, Prepare, blank
from stages.metrics.weights.loading import fill, read, sha256, unit_vectors, weights_file

# Only the tower of pictures is wanted, so that of texts is made as small as it can be.
NO_TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


def tower(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as published (https://github.com/learn2phoenix/CSD) or in open_clip's names, for open_clip's tower.

    The published backbone is OpenAI's tower without its projection, and its head for styles is used as that projection;
    the head for contents is no part of the metric.
    """
    named = {}
    for key, value in weights.items():
        key = key.removeprefix("module.")
        if key == "last_layer_style":
            named["proj"] = value
        elif key != "last_layer_content":
            named[key.removeprefix("backbone.").removeprefix("visual.")] = value
    return named


@lru_cache
def load(path: str, architecture: str) -> tuple[nn.Module, Prepare]:
    file = weights_file(path, WEIGHTS)
    model, prepare = blank(path, architecture, text_cfg=NO_TEXT)
    return fill(model.visual, tower(read(file)), file), prepare


@metrics.register("csd")
class Csd(EmbeddingMetric):
    """`path`: a folder in open_clip's format, or the published weights as one safetensors file and with it the
    `architecture`, ViT-L-14-quickgelu in the paper."""

    path: str
    architecture: str = ""

    @property
    def encoder(self) -> str:
        return f"csd {self.architecture} {sha256(weights_file(self.path, WEIGHTS))}"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        visual, prepare = load(self.path, self.architecture)
        return unit_vectors(visual, prepare, images)
