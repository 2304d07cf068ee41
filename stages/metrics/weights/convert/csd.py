"""Converts CSD as published, the pickle of a training run (https://github.com/learn2phoenix/CSD)."""

from pathlib import Path

from stages.metrics.clip_i import build_model
from stages.metrics.csd import NO_TEXT, tower_weights
from stages.metrics.weights.convert.checkpoint import check, read, write
from stages.runtime.faults import InputFault

ARCHITECTURE = "ViT-L-14-quickgelu"
HEADS = ("last_layer_style", "last_layer_content")


def convert(path: Path, target: Path, architecture: str = ARCHITECTURE) -> None:
    """Writes the weights that the metric uses: the picture tower, with the style head as its projection.

    Raises:
        InputFault: reading it would run code, or its weights do not match the architecture exactly.
    """
    weights = read(path).get("model_state_dict")
    if not isinstance(weights, dict):
        raise InputFault(f"{path}: has no model_state_dict, so it is not the published CSD checkpoint.")
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    model, _ = build_model("", architecture, text_cfg=NO_TEXT)
    shapes = {key: tuple(value.shape) for key, value in model.visual.state_dict().items()}
    expected = {f"backbone.{key}": shape for key, shape in shapes.items() if key != "proj"}
    check(weights, expected | dict.fromkeys(HEADS, shapes["proj"]), path, architecture)
    write(tower_weights(weights), target)
