"""Scoring a state's pictures: python -m tests.bench.scoring [--blocks 5] [--sizes tiny embedded] [--concepts 10]

Two questions, each answered in both ways, with CLIP-I and DINO:
- one pair: 40 pictures against the references of their own concept;
- ten pairs: the same pictures against the references of all ten concepts, which top-1 identity and "own score minus the
  others'" ask of every state.

The reference's way is what its code does, a call per pair and metric: transformers loads processor, tokenizer and model
from disk, and the model embeds pictures and references, with the gradients' bookkeeping on. Ours: models stay, pictures
are embedded once however many references they meet, references were embedded when their task was learnt. Both start
from pictures in memory, and the judges have the same weights, random ones.

On a GPU embedding 40 pictures takes milliseconds and loading takes seconds; on a CPU it is the other way round the
larger the judges are. So their size decides: `tiny` is nearest to a GPU's proportions, `embedded` has the size of those
that ship with the repository, `paper` that of the paper's, where one pair on a CPU is hardly more than its arithmetic.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stages.core.metric import EmbeddingMetric, pairwise
from stages.metrics.dino import preparation
from stages.runtime.device import device
from stages.runtime.seeds import generator
from tests.bench.blocks import interleaved, report
from tests.support.random_judges import SIZES, write_clip, write_dino

Pictures = list[Image.Image]


def pictures(count: int, word: str, side: int) -> Pictures:
    drawn = torch.randint(0, 256, (count, side, side, 3), generator=generator(word), dtype=torch.uint8)
    return [Image.fromarray(one.numpy()) for one in drawn]


def published_clip(folder: Path, made: Pictures, shown: Pictures) -> float:
    from transformers import AutoModel, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
    generated, wanted = (
        model.get_image_features(processor(images=images, return_tensors="pt").pixel_values).pooler_output
        for images in (made, shown)
    )
    return mean_of_pairs(generated, wanted)


def published_dino(folder: Path, resize: int, side: int, made: Pictures, shown: Pictures) -> float:
    from transformers import AutoModel

    model, prepare = AutoModel.from_pretrained(folder, add_pooling_layer=False), preparation(resize, side)
    generated, wanted = (
        model(torch.stack([prepare(image) for image in images])).last_hidden_state[:, 0] for images in (made, shown)
    )
    return mean_of_pairs(generated, wanted)


def mean_of_pairs(generated: Tensor, wanted: Tensor) -> float:
    return float(F.cosine_similarity(generated[:, None], wanted[None], dim=-1).mean(1).mean().detach())


def reference(
    ways: list[Callable[[Pictures, Pictures], float]], made: Pictures, shown: list[Pictures]
) -> list[list[float]]:
    return [[way(made, pictures) for way in ways] for pictures in shown]


def ours(judges: list[EmbeddingMetric], made: Pictures, known: list[list[Tensor]]) -> list[list[float]]:
    found = [judge.embed(made) for judge in judges]
    return [[float(pairwise(*pair).mean()) for pair in zip(found, vectors, strict=True)] for vectors in known]


def compare(name: str, folder: Path, args: argparse.Namespace) -> None:
    size = SIZES[name]
    side, resize = size.dino.pixels, size.dino.pixels * 8 // 7  # 256 for 224, as in the paper
    judges = [write_clip(folder / "clip", size), write_dino(folder / "dino", size, resize)]
    ways = [partial(published_clip, folder / "clip"), partial(published_dino, folder / "dino", resize, side)]
    made = pictures(args.images, "made", side)
    shown = [pictures(args.references, f"shown {concept}", side) for concept in range(args.concepts)]
    known = [[judge.embed(pictures) for judge in judges] for pictures in shown]
    for count in (1, args.concepts):
        peers: Mapping[str, Callable[[], list[list[float]]]] = {
            "the reference's way": partial(reference, ways, made, shown[:count]),
            "ours": partial(ours, judges, made, known[:count]),
        }
        wanted, found = (np.array(make()) for make in peers.values())
        apart = np.abs(wanted - found).max()
        print(
            f"{name} judges, {args.images} pictures, {args.references} references, pairs: {count}; "
            f"scores differ by {apart:.1e}"
        )
        assert apart < 1e-5, "the peers do not find the same scores"
        report(interleaved(peers, args.blocks), "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 5), ("images", 40), ("references", 6), ("concepts", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "embedded"], choices=SIZES)
    args = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device()
    for name in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder), args)


if __name__ == "__main__":
    main()
