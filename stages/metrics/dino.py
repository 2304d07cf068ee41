"""DINO: whether it is the same thing, by the class token of a ViT that learnt without labels (arXiv 2104.14294)."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics.weights.loading import fill, read, sha256, unit_vectors, weights_file
from stages.runtime.faults import InputFault

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def preparation(resize: int, crop: int) -> Callable[[Image.Image], Tensor]:
    """The paper's: short side to `resize` pixels, bicubic, and the middle `crop`; timm's own has 248 for 224."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    prepare: Callable[[Image.Image], Tensor] = Compose(
        [Resize(resize, InterpolationMode.BICUBIC), CenterCrop(crop), ToTensor(), Normalize(MEAN, DEVIATION)]
    )
    return prepare


def blank(path: str, architecture: str) -> nn.Module:
    """The model without its weights and without a classifier.

    Raises:
        InputFault: timm has no such architecture, or none is named and the folder does not describe one.
    """
    import timm  # takes seconds, which commands that embed nothing need not spend

    if architecture and not timm.is_model(architecture.split(".")[0]):
        raise InputFault(f"timm has no architecture '{architecture}'; the paper's is 'vit_small_patch16_224'.")
    if not architecture and not (Path(path) / CONFIG).is_file():
        raise InputFault(
            f"{Path(path) / CONFIG}: there is no such file; put it beside the weights, or name an 'architecture'."
        )
    model: nn.Module = timm.create_model(architecture or f"local-dir:{path}", pretrained=False, num_classes=0)
    return model


@lru_cache
def load(path: str, architecture: str, norm_eps: float | None) -> nn.Module:
    file = weights_file(path, WEIGHTS)
    model = fill(blank(path, architecture), read(file), file)
    if norm_eps is not None:
        for norm in (part for part in model.modules() if isinstance(part, nn.LayerNorm)):
            norm.eps = norm_eps
    return model


@metrics.register("dino")
class Dino(EmbeddingMetric):
    """`path`: a folder in timm's format, or its file of weights and with it the `architecture`, vit_small_patch16_224
    in the paper. `resize`: the short side in pixels before the middle is cut out at the size that the model takes.
    `norm_eps`: what layer norms add to the variance, where it is not timm's 1e-6; the published model has 1e-12."""

    path: str
    architecture: str = ""
    resize: int = Field(256, ge=8)
    norm_eps: float | None = Field(None, gt=0)

    @property
    def encoder(self) -> str:
        how = f"{self.architecture} {self.resize}" + (f" {self.norm_eps:g}" if self.norm_eps else "")
        return f"dino {how} {sha256(weights_file(self.path, WEIGHTS))}"

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        model: Any = load(self.path, self.architecture, self.norm_eps)
        return unit_vectors(model, preparation(self.resize, model.patch_embed.img_size[0]), images)
