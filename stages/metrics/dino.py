"""DINO: whether two pictures show the same thing, by the class token of a self-supervised ViT (arXiv 2104.14294)."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics.weights.loading import load_weights, read_weights, sha256, unit_vectors, weights_file
from stages.runtime.faults import InputFault

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def preprocessing(resize: int, crop: int) -> Callable[[Image.Image], Tensor]:
    """The paper's preprocessing (timm's default resizes to 248 for 224).

    Args:
        resize: the short side in pixels after bicubic resizing.
        crop: the side of the centre crop in pixels.
    """
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    preprocess: Callable[[Image.Image], Tensor] = Compose(
        [Resize(resize, InterpolationMode.BICUBIC), CenterCrop(crop), ToTensor(), Normalize(MEAN, DEVIATION)]
    )
    return preprocess


def build_model(path: str, architecture: str) -> nn.Module:
    """Builds the model without a classifier and without loading weights.

    Args:
        path: the folder of the weights.
        architecture: a name known to timm; "" for the folder's configuration.

    Raises:
        InputFault: the architecture is unknown, or the folder has no configuration.
    """
    import timm  # takes seconds to import, so only embedding imports it

    if architecture and not timm.is_model(architecture.split(".")[0]):
        raise InputFault(f"architecture '{architecture}': unknown to timm. The paper uses 'vit_small_patch16_224'.")
    if not architecture and not (Path(path) / CONFIG).is_file():
        raise InputFault(f"{Path(path) / CONFIG}: no such file. Put it beside the weights, or set 'architecture'.")
    model: nn.Module = timm.create_model(architecture or f"local-dir:{path}", pretrained=False, num_classes=0)
    return model


@lru_cache
def load(path: str, architecture: str, norm_eps: float | None) -> nn.Module:
    """The model with its weights; cached."""
    file = weights_file(path, WEIGHTS)
    model = load_weights(build_model(path, architecture), read_weights(file), file)
    if norm_eps is not None:
        for norm in (part for part in model.modules() if isinstance(part, nn.LayerNorm)):
            norm.eps = norm_eps
    return model


@metrics.register("dino")
class Dino(EmbeddingMetric):
    """Cosine similarity of DINO's class tokens.

    `path` is a folder in timm's format, or a file of weights together with `architecture` (vit_small_patch16_224 in the
    paper). `resize` is the short side in pixels before the centre crop to the model's input size. `norm_eps` is the
    epsilon of the layer norms, if not timm's 1e-6; the published model has 1e-12.
    """

    path: str
    architecture: str = ""
    resize: int = Field(256, ge=8)
    norm_eps: float | None = Field(None, gt=0)

    @property
    def encoder(self) -> str:
        options = f"{self.architecture} {self.resize}" + (f" {self.norm_eps:g}" if self.norm_eps else "")
        return f"dino {options} {sha256(weights_file(self.path, WEIGHTS))}"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        model: Any = load(self.path, self.architecture, self.norm_eps)
        return unit_vectors(model, preprocessing(self.resize, model.patch_embed.img_size[0]), images)
