"""Scoring one pair of 40 pictures by two metrics: python -m tests.bench.scoring [--blocks 5]

The reference's way: every call loads the metric's model from disk, embeds the pictures and the references, with the
gradients' bookkeeping on. Ours: models stay, references were embedded when their task was learnt. Both start from
pictures in memory; the judges are the embedded ones, open_clip and timm models of the usual architectures and small.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from PIL import Image

from stages.core.device import device
from stages.core.metric import Metric, pairwise
from stages.core.params import load
from stages.core.seeds import generator

from .blocks import interleaved, report

METRICS = ("clip_i", "dino")


def pictures(count: int, word: str, side: int = 32) -> list[Image.Image]:
    drawn = torch.randint(0, 256, (count, side, side, 3), generator=generator(word), dtype=torch.uint8)
    return [Image.fromarray(one.numpy()) for one in drawn]


def clip(path: str, images: list[Image.Image]) -> torch.Tensor:
    import open_clip

    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{path}")
    features = model.eval().encode_image(torch.stack([prepare(image) for image in images]))
    return features / features.norm(dim=-1, keepdim=True)


def dino(path: str, images: list[Image.Image], resize: int) -> torch.Tensor:
    import timm
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    model = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
    prepare = Compose(
        [
            Resize(resize, InterpolationMode.BICUBIC),
            CenterCrop(model.patch_embed.img_size[0]),
            ToTensor(),
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    features = model(torch.stack([prepare(image) for image in images]))
    return features / features.norm(dim=-1, keepdim=True)


def reference(judges: Mapping[str, Metric], made: list[Image.Image], shown: list[Image.Image]) -> list[float]:
    """A model for each call; generated pictures and references, all pairs, their mean."""
    options = {name: judges[name].model_dump() for name in METRICS}
    ways: dict[str, Callable[[list[Image.Image]], torch.Tensor]] = {
        "clip_i": partial(clip, options["clip_i"]["path"]),
        "dino": partial(dino, options["dino"]["path"], resize=options["dino"]["resize"]),
    }
    found = []
    for name in METRICS:
        features = ways[name](made + shown)
        found.append(float((features[: len(made)] @ features[len(made) :].T).mean().detach()))
    return found


def ours(judges: Mapping[str, Metric], made: list[Image.Image], known: Mapping[str, torch.Tensor]) -> list[float]:
    return [float(pairwise(judges[name].embed(made), known[name]).mean()) for name in METRICS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 5), ("images", 40), ("references", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    device()
    judges = load().judges
    made, shown = pictures(args.images, "made"), pictures(args.references, "shown")
    known = {name: judges[name].embed(shown) for name in METRICS}
    peers = {
        "the reference's way": partial(reference, judges, made, shown),
        "ours": partial(ours, judges, made, known),
    }
    wanted, found = (np.array(make()) for make in peers.values())
    print(
        f"{args.images} pictures by {args.references} references; scores differ by {np.abs(wanted - found).max():.1e}"
    )
    assert np.allclose(wanted, found, atol=1e-5), "the peers do not find the same scores"
    report(interleaved(peers, args.blocks), "ours")


if __name__ == "__main__":
    main()
