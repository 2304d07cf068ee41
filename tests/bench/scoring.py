"""Scoring a state's pictures: python -m tests.bench.scoring [--blocks 5] [--sizes tiny embedded] [--concepts 10]

Two tasks, each done in both ways, with CLIP-I and DINO:
- one pair: 40 pictures against the references of their own concept;
- ten pairs: the same pictures against the references of all ten concepts, as top-1 identity and "own score minus the
  others'" need for every state.

The reference makes one call per pair and metric: transformers loads processor, tokenizer and model from disk, and the
model embeds pictures and references with autograd enabled. Ours: models stay loaded, pictures are embedded once for all
references, and references were embedded when their task was learned. Both start from pictures in memory, and the judges
have the same random weights.

On a GPU embedding 40 pictures takes milliseconds and loading takes seconds; on a CPU it is the opposite, the more so
the larger the judges are. So their size matters: `tiny` is closest to a GPU's proportions, `embedded` is the size of
the judges in this repository, `paper` that of the paper's, where one pair on a CPU is almost only arithmetic.
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
from stages.metrics.dino import preprocessing
from stages.runtime.device import device
from stages.runtime.seeds import generator
from tests.bench.blocks import interleaved, report
from tests.support.models.random_judges import SIZES, write_clip, write_dino

Pictures = list[Image.Image]


def pictures(count: int, word: str, side: int) -> Pictures:
    drawn = torch.randint(0, 256, (count, side, side, 3), generator=generator(word), dtype=torch.uint8)
    return [Image.fromarray(one.numpy()) for one in drawn]


def published_clip(folder: Path, sampled: Pictures, references: Pictures) -> float:
    from transformers import AutoModel, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
    vectors = (
        model.get_image_features(processor(images=images, return_tensors="pt").pixel_values).pooler_output
        for images in (sampled, references)
    )
    return mean_of_pairs(*vectors)


def published_dino(folder: Path, resize: int, side: int, sampled: Pictures, references: Pictures) -> float:
    from transformers import AutoModel

    model, prepare = AutoModel.from_pretrained(folder, add_pooling_layer=False), preprocessing(resize, side)
    vectors = (
        model(torch.stack([prepare(image) for image in images])).last_hidden_state[:, 0]
        for images in (sampled, references)
    )
    return mean_of_pairs(*vectors)


def mean_of_pairs(sampled: Tensor, references: Tensor) -> float:
    return float(F.cosine_similarity(sampled[:, None], references[None], dim=-1).mean(1).mean().detach())


def reference(
    metrics: list[Callable[[Pictures, Pictures], float]], sampled: Pictures, references: list[Pictures]
) -> list[list[float]]:
    return [[metric(sampled, pictures) for metric in metrics] for pictures in references]


def ours(judges: list[EmbeddingMetric], sampled: Pictures, references: list[list[Tensor]]) -> list[list[float]]:
    embedded = [judge.embed(sampled) for judge in judges]
    return [[float(pairwise(*pair).mean()) for pair in zip(embedded, vectors, strict=True)] for vectors in references]


def compare(name: str, folder: Path, args: argparse.Namespace) -> None:
    size = SIZES[name]
    side, resize = size.dino.pixels, size.dino.pixels * 8 // 7  # 256 for 224, as in the paper
    judges = [write_clip(folder / "clip", size), write_dino(folder / "dino", size, resize)]
    metrics = [partial(published_clip, folder / "clip"), partial(published_dino, folder / "dino", resize, side)]
    sampled = pictures(args.images, "made", side)
    references = [pictures(args.references, f"shown {concept}", side) for concept in range(args.concepts)]
    vectors = [[judge.embed(pictures) for judge in judges] for pictures in references]
    for count in (1, args.concepts):
        peers: Mapping[str, Callable[[], list[list[float]]]] = {
            "the reference": partial(reference, metrics, sampled, references[:count]),
            "ours": partial(ours, judges, sampled, vectors[:count]),
        }
        theirs, mine = (np.array(score()) for score in peers.values())
        difference = np.abs(theirs - mine).max()
        print(
            f"{name} judges, {args.images} pictures, {args.references} references, pairs: {count}; "
            f"scores differ by {difference:.1e}"
        )
        assert difference < 1e-5, "the peers compute different scores"
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
