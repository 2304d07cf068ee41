"""CLIP-I: picture similarity according to CLIP, as in DreamBooth (arXiv 2208.12242, section 4) and arXiv 2410.04891."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics.weights.loading import load_weights, read_weights, sha256, unit_vectors, weights_file
from stages.runtime.faults import InputFault

if TYPE_CHECKING:  # takes seconds to import, so only embedding imports it
    import open_clip

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
Preprocess = Callable[[Image.Image], Tensor]


def model_name(path: str, architecture: str) -> str:
    """open_clip's name for the model: an architecture, or a folder with a configuration.

    Args:
        path: the folder of the weights.
        architecture: a name known to open_clip; "" for the folder's configuration.

    Raises:
        InputFault: the architecture is unknown, or the folder has no configuration.
    """
    if architecture:
        import open_clip

        if architecture not in open_clip.list_models():
            raise InputFault(
                f"architecture '{architecture}': unknown to open_clip. The paper uses 'ViT-B-32-quickgelu'."
            )
        return architecture
    if not (Path(path) / CONFIG).is_file():
        raise InputFault(f"{Path(path) / CONFIG}: no such file. Put it beside the weights, or set 'architecture'.")
    return f"local-dir:{path}"


def build_model(path: str, architecture: str, **parts: Any) -> tuple[open_clip.CLIP, Preprocess]:
    """Builds a model without loading weights, and its preprocessing.

    Args:
        path: the folder of the weights.
        architecture: a name known to open_clip; "" for the folder's configuration.
        parts: replace parts of the configuration.

    Returns:
        The model, and its preprocessing: bicubic resize of the short side, centre crop, and normalisation with the
        mean and deviation of the configuration or, by default, of CLIP.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # silences "no weights loaded": ours are loaded next
    try:
        model = open_clip.create_model(model_name(path, architecture), pretrained=None, load_weights=False, **parts)
    finally:
        logging.disable(level)
    return model, image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)


@lru_cache
def load(path: str, architecture: str) -> tuple[open_clip.CLIP, Preprocess]:
    """The model with its weights, and its preprocessing; cached."""
    file = weights_file(path, WEIGHTS)
    model, preprocess = build_model(path, architecture)
    load_weights(model, read_weights(file), file)
    return model, preprocess


@metrics.register("clip_i")
class ClipI(EmbeddingMetric):
    """Cosine similarity of CLIP's picture embeddings.

    `path` is a folder in open_clip's format, or a file of weights together with `architecture`. OpenAI's weights need
    ViT-B-32-quickgelu: without the quick GELU they silently give wrong embeddings.
    """

    path: str
    architecture: str = ""

    @property
    def encoder(self) -> str:
        return f"clip {self.architecture} {sha256(weights_file(self.path, WEIGHTS))}"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        model, preprocess = load(self.path, self.architecture)
        return unit_vectors(model.encode_image, preprocess, images)
