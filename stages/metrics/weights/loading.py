"""Shared by the encoders: loads files of weights strictly, and embeds pictures in batches."""

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
from stages.files.pins import check_weights
from stages.runtime.device import device, parallel_map
from stages.runtime.faults import InputFault
from stages.runtime.inference import inference

BATCH = 256  # pictures


def weights_file(path: str, default: str) -> Path:
    """The file of weights: `path` itself, or `default` inside it if `path` is a folder.

    Raises:
        InputFault: the file does not exist, is not safetensors, or is not the pinned one.
    """
    file = Path(path) / default if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputFault(
            f"{file}: no such file of weights. Put it there, or correct the metric's 'path' in params.yaml."
        )
    if file.suffix != ".safetensors":
        raise InputFault(f"{file}: is not a .safetensors file. Convert it, or set the metric's 'path' to one.")
    check_pins(file.parent)
    return file


sha256, check_pins = lru_cache(artifact.sha256), lru_cache(check_weights)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        InputFault: the file is damaged.
    """
    try:
        weights: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise InputFault(f"{file}: damaged or not safetensors ({error}). Fetch it again.") from None
    return weights


def load_weights(model: nn.Module, weights: dict[str, Tensor], file: Path) -> nn.Module:
    """Loads exactly these weights and moves the model, in float32 and eval mode, to the device.

    Args:
        model: the architecture.
        weights: its tensors by name.
        file: their file, for messages.

    Raises:
        InputFault: a tensor is missing, unknown or has another shape.
    """
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    wrong = next(
        (k for k in sorted({*shapes, *weights}) if k not in weights or tuple(weights[k].shape) != shapes.get(k)), None
    )
    if wrong is not None:
        actual = tuple(weights[wrong].shape) if wrong in weights else "missing"
        expected = shapes.get(wrong, "no such tensor")
        raise InputFault(
            f"{file}: '{wrong}' is {actual}, the architecture has {expected}. Correct 'architecture' or 'path'."
        )
    model.load_state_dict(weights)
    return model.float().eval().requires_grad_(False).to(device())


@inference()
def unit_vectors(
    encode: Callable[[Tensor], Tensor], preprocess: Callable[[Image.Image], Tensor], images: Sequence[Image.Image]
) -> Tensor:
    """Embeds pictures as unit vectors.

    Args:
        encode: the model, from [batch, 3, height, width] to [batch, d].
        preprocess: one RGB picture to [3, height, width].
        images: pictures of any size.

    Returns:
        [n, d], float32, on the CPU.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        batch = torch.stack(parallel_map(lambda image: preprocess(image.convert("RGB")), images[start : start + BATCH]))
        parts.append(F.normalize(encode(batch.to(device())).float(), dim=1).cpu())
    return torch.cat(parts)
