"""CSD as it is published, the pickle of a training run (https://github.com/learn2phoenix/CSD)."""

from pathlib import Path

from stages.metrics.clip_i import blank
from stages.metrics.csd import NO_TEXT, tower
from stages.metrics.weights.convert.checkpoint import check, read, write
from stages.runtime.faults import InputFault

ARCHITECTURE = "ViT-L-14-quickgelu"
HEADS = ("last_layer_style", "last_layer_content")


def convert(path: Path, target: Path, architecture: str = ARCHITECTURE) -> None:
    """Writes the weights that the metric uses: the tower, and the head for styles as its projection.

    Raises:
        InputFault: it cannot be read without running code, or its weights are not exactly those of the architecture.
    """
    weights = read(path).get("model_state_dict")
    if not isinstance(weights, dict):
        raise InputFault(f"{path}: holds no model_state_dict; it is not the checkpoint that CSD publishes.")
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    model, _ = blank("", architecture, text_cfg=NO_TEXT)
    shapes = {key: tuple(value.shape) for key, value in model.visual.state_dict().items()}
    wanted = {f"backbone.{key}": shape for key, shape in shapes.items() if key != "proj"}
    check(weights, wanted | dict.fromkeys(HEADS, shapes["proj"]), path, architecture)
    write(tower(weights), target)
