"""Reads place, colour and shape off a picture: the judge of the base model.

`python -m data.world.recogniser` trains it.
"""

import argparse
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from data.world.draw import COLOURS, SHAPES, Scene, draw
from data.world.loop import fit
from data.world.places import PLACES
from data.world.scenes import base_world

WEIGHTS = Path(__file__).parent / "recogniser.safetensors"
READS = {"place": list(PLACES), "colour": list(COLOURS), "shape": list(SHAPES)}
STEPS, BATCH, PICTURES = 1500, 96, 30000


class Recogniser(nn.Module):
    """Pictures [n, 3, 32, 32] in 0..1 to scores for every place, colour and shape."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in READS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        seen = self.body(pictures)
        return {name: head(seen) for name, head in self.heads.items()}


def facts(scene: Scene) -> dict[str, int]:
    """What is to be read, as indices into READS; -1 where the style hides the colour."""
    said = {"place": scene.place, "shape": scene.shape}
    found = {name: READS[name].index(word) for name, word in said.items()}
    colours = [word for word, colour in COLOURS.items() if colour == scene.marking.colours[0]]
    return found | {"colour": READS["colour"].index(colours[0]) if scene.style in ("photo", "cartoon") else -1}


def read(pictures: np.ndarray) -> dict[str, list[str]]:
    """What the trained recogniser sees on pictures [n, 32, 32, 3] uint8."""
    model = Recogniser()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    with torch.inference_mode():
        scores = model.eval()(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    return {name: [READS[name][i] for i in score.argmax(1).tolist()] for name, score in scores.items()}


def train() -> None:
    scenes = [scene for scene, _ in islice(base_world(np.random.default_rng([7, 7])), PICTURES)]
    pictures = torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2)
    answers = {name: torch.tensor([facts(scene)[name] for scene in scenes]) for name in READS}
    torch.manual_seed(0)
    model = Recogniser()

    def loss(g: torch.Generator) -> Tensor:
        rows = torch.randint(PICTURES, (BATCH,), generator=g)
        x = pictures[rows] / 255
        # What a generator makes is softer than a drawing, and never quite the right shade.
        soft = functional.avg_pool2d(x, 3, 1, 1)
        x = torch.lerp(x, soft, torch.rand((BATCH, 1, 1, 1), generator=g))
        x = x + 0.06 * torch.randn((BATCH, 3, 1, 1), generator=g) + 0.04 * torch.randn(x.shape, generator=g)
        scores = model(x)
        return sum(functional.cross_entropy(scores[n], answers[n][rows], ignore_index=-1) for n in READS)  # type: ignore[return-value]

    model.load_state_dict(fit("recogniser", model, loss, STEPS, (0.01, 2e-3), 0, 1, 0.99))
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    train()
