"""Recognises place and noun in a picture: the judge of the base model."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from data.world.artwork import NOUNS
from data.world.lessons.damage import floats, softened
from data.world.places import PLACES
from data.world.recipes.loop import Run, brief, fit
from data.world.recipes.pool import as_tensor, pictures

WEIGHTS = Path(__file__).parent / "recogniser.safetensors"
READS = {"place": list(PLACES), "noun": list(NOUNS)}
BATCH = 96


class Recogniser(nn.Module):
    """Pictures [n, 3, 64, 64] in 0..1 to scores for every place and noun."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 72, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in READS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        seen = self.body(pictures)
        return {name: head(seen) for name, head in self.heads.items()}


def read(pictures: np.ndarray) -> dict[str, list[str]]:
    """The place and noun that the trained recogniser sees in pictures [n, 64, 64, 3] uint8."""
    model = Recogniser()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    with torch.inference_mode():
        scores = model.eval()(floats(torch.from_numpy(pictures)))
    return {name: [READS[name][i] for i in score.argmax(1).tolist()] for name, score in scores.items()}


def train(thousands: int, run: Run) -> None:
    drawn, said = pictures("base", thousands)
    images = as_tensor(drawn, run.device)
    answers = {n: torch.tensor([words.index(getattr(s, n)) for s in said]).to(run.device) for n, words in READS.items()}
    torch.manual_seed(0)
    model = Recogniser()

    def loss(g: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (BATCH,), generator=g, device=g.device)
        # A generator's pictures are softer than drawings, and their shades are slightly off.
        with brief(run.device):
            scores = model(softened(floats(images[rows]), g))
        return sum(functional.cross_entropy(scores[n].float(), answers[n][rows]) for n in READS)  # type: ignore[return-value]

    average = fit("recogniser", model, loss, (0.01, 2e-3), run, 0.99)
    save_file({name: value.cpu().half().contiguous() for name, value in average.items()}, WEIGHTS)
    WEIGHTS.chmod(0o644)
