"""What the encoders share: finding and strictly loading a file of weights, and pictures in batches to unit vectors."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.files import artifact
from stages.runtime.device import device, side_by_side
from stages.runtime.faults import InputFault

BATCH = 256


def weights_file(path: str, usual: str) -> Path:
    """`path` itself where it is a file, otherwise the file called `usual` in it.

    Raises:
        InputFault: it does not exist, or is not a safetensors file.
    """
    file = Path(path) / usual if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputFault(
            f"{file}: there is no such file of weights; put one there or mend the metric's 'path' in params.yaml."
        )
    if file.suffix != ".safetensors":
        raise InputFault(f"{file}: weights are read from .safetensors only; convert the file, or point 'path' at one.")
    return file


sha256 = lru_cache(artifact.sha256)


def read(file: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise InputFault(f"{file}: damaged or not safetensors ({error}); fetch it again.") from None
    return weights


def fill(model: nn.Module, weights: dict[str, Tensor], file: Path) -> nn.Module:
    """The model in float32 on its device with exactly these weights, ready to embed.

    Raises:
        InputFault: a tensor is missing, unknown or of another shape.
    """
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    wrong = next(
        (k for k in sorted({*wanted, *weights}) if k not in weights or tuple(weights[k].shape) != wanted.get(k)), None
    )
    if wrong is not None:
        found = tuple(weights[wrong].shape) if wrong in weights else "nothing"
        expected = wanted.get(wrong, "nothing")
        raise InputFault(
            f"{file}: '{wrong}' is {found} where the architecture has {expected}; mend 'architecture' or 'path'."
        )
    model.load_state_dict(weights)
    return model.float().eval().requires_grad_(False).to(device())


@torch.inference_mode()
def unit_vectors(
    encode: Callable[[Tensor], Tensor], prepare: Callable[[Image.Image], Tensor], images: Sequence[Image.Image]
) -> Tensor:
    """Pictures of any size as unit vectors [n, d], float32, on the CPU; `encode` takes [batch, 3, height, width]."""
    parts = []
    for start in range(0, len(images), BATCH):
        batch = torch.stack(side_by_side(lambda image: prepare(image.convert("RGB")), images[start : start + BATCH]))
        parts.append(F.normalize(encode(batch.to(device())).float(), dim=1).cpu())
    return torch.cat(parts)
