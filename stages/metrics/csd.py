"""CSD: whether two pictures have the same style, by a CLIP tower trained to distinguish styles (arXiv 2404.01292)."""

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image
from torch import Tensor, nn

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics.clip_i import WEIGHTS, Preprocess, build_model
from stages.metrics.weights.loading import load_weights, read_weights, sha256, unit_vectors, weights_file

# Only the picture tower is used, so the text tower is as small as possible.
NO_TEXT = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


def tower_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames weights as published (https://github.com/learn2phoenix/CSD) to those of open_clip's picture tower.

    The published backbone is OpenAI's tower without its projection; the style head becomes that projection. The content
    head is dropped, since the metric does not use it. Names that are open_clip's already stay as they are.
    """
    renamed = {}
    for key, value in weights.items():
        key = key.removeprefix("module.")
        if key == "last_layer_style":
            renamed["proj"] = value
        elif key != "last_layer_content":
            renamed[key.removeprefix("backbone.").removeprefix("visual.")] = value
    return renamed


@lru_cache
def load(path: str, architecture: str) -> tuple[nn.Module, Preprocess]:
    """The picture tower with its weights, and its preprocessing; cached."""
    file = weights_file(path, WEIGHTS)
    model, preprocess = build_model(path, architecture, text_cfg=NO_TEXT)
    return load_weights(model.visual, tower_weights(read_weights(file)), file), preprocess


@metrics.register("csd")
class Csd(EmbeddingMetric):
    """Cosine similarity of CSD's style embeddings.

    `path` is a folder in open_clip's format, or the published weights as one safetensors file together with
    `architecture` (ViT-L-14-quickgelu in the paper).
    """

    path: str
    architecture: str = ""

    @property
    def encoder(self) -> str:
        return f"csd {self.architecture} {sha256(weights_file(self.path, WEIGHTS))}"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        visual, preprocess = load(self.path, self.architecture)
        return unit_vectors(visual, preprocess, images)
