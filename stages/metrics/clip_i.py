"""CLIP-I: how alike two pictures are to CLIP, as in DreamBooth (arXiv 2208.12242, section 4) and arXiv 2410.04891."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics.weights.loading import fill, read, sha256, unit_vectors, weights_file
from stages.runtime.faults import InputFault

if TYPE_CHECKING:  # importing it takes seconds, which commands that embed nothing need not spend
    import open_clip

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
Prepare = Callable[[Image.Image], Tensor]


def source(path: str, architecture: str) -> str:
    """What open_clip calls the model: the name of an architecture, or the folder whose configuration describes it.

    Raises:
        InputFault: no architecture is named, and the folder does not describe one.
    """
    if architecture:
        import open_clip

        if architecture not in open_clip.list_models():
            raise InputFault(f"open_clip has no architecture '{architecture}'; the paper's is 'ViT-B-32-quickgelu'.")
        return architecture
    if not (Path(path) / CONFIG).is_file():
        raise InputFault(
            f"{Path(path) / CONFIG}: there is no such file; put it beside the weights, or name an 'architecture'."
        )
    return f"local-dir:{path}"


def blank(path: str, architecture: str, **parts: Any) -> tuple[open_clip.CLIP, Prepare]:
    """The model without its weights, and its own preparation of pictures: short side, bicubic; centre; CLIP's mean and
    deviation where the configuration has no other. `parts` replaces parts of the configuration."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    shown = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that there are no weights: they come next, from where open_clip cannot download
    try:
        model = open_clip.create_model(source(path, architecture), pretrained=None, load_weights=False, **parts)
    finally:
        logging.disable(shown)
    return model, image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)


@lru_cache
def load(path: str, architecture: str) -> tuple[open_clip.CLIP, Prepare]:
    file = weights_file(path, WEIGHTS)
    model, prepare = blank(path, architecture)
    fill(model, read(file), file)
    return model, prepare


@metrics.register("clip_i")
class ClipI(EmbeddingMetric):
    """`path`: a folder in open_clip's format, or its file of weights and with it the `architecture`; for OpenAI's
    weights that is ViT-B-32-quickgelu, because without the quick GELU they give other vectors and no error."""

    path: str
    architecture: str = ""

    @property
    def encoder(self) -> str:
        return f"clip {self.architecture} {sha256(weights_file(self.path, WEIGHTS))}"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        model, prepare = load(self.path, self.architecture)
        return unit_vectors(model.encode_image, prepare, images)
