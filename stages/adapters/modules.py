"""Which part of a pipeline a module belongs to."""

from __future__ import annotations

TEXT = {"text_encoder_2": "lora_te2_", "text_encoder": "lora_te1_"}  # what kohya's names begin with


TRUNK = "text_model."  # in files of adapters; transformers has dropped it from the first encoder's own names


def part(module: str) -> tuple[str, str]:
    """The model of the pipeline that a module belongs to, and its name there. Without a prefix it is the UNet's."""
    head, _, rest = module.partition(".")
    return (head, rest) if head in (*TEXT, "unet") else ("unet", module)
