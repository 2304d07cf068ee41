"""Scoring a state's pictures: python -m tests.bench.scoring [--blocks 5] [--concepts 10]

Two questions, each answered in both ways, with two metrics:
- one pair: 40 pictures against the references of their own concept;
- ten pairs: the same pictures against the references of all ten concepts, which top-1 identity and "own score minus the
  others'" ask of every state.

The reference's way is a call per pair and metric, and every call loads the metric's model from disk and embeds pictures
and references, with the gradients' bookkeeping on. Ours: models stay, a picture is embedded once however many
references it meets, references were embedded when their task was learnt. Both start from pictures in memory; the judges
are the embedded ones, open_clip and timm models of the usual architectures and small, so that loading them costs the
reference less than it would at full size. On a CPU embedding outweighs loading, on a GPU it is the other way round.
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


def each(judges: Mapping[str, Metric], made: list[Image.Image], shown: list[list[Image.Image]]) -> list[list[float]]:
    return [reference(judges, made, pictures) for pictures in shown]


def ours(
    judges: Mapping[str, Metric], made: list[Image.Image], known: list[Mapping[str, torch.Tensor]]
) -> list[list[float]]:
    found = {name: judges[name].embed(made) for name in METRICS}
    return [[float(pairwise(found[name], vectors[name]).mean()) for name in METRICS] for vectors in known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 5), ("images", 40), ("references", 6), ("concepts", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    device()
    judges = load().judges
    made = pictures(args.images, "made")
    shown = [pictures(args.references, f"shown {concept}") for concept in range(args.concepts)]
    known = [{name: judges[name].embed(pictures) for name in METRICS} for pictures in shown]
    for count in (1, args.concepts):
        peers: dict[str, Callable[[], list[list[float]]]] = {
            "the reference's way": partial(each, judges, made, shown[:count]),
            "ours": partial(ours, judges, made, known[:count]),
        }
        wanted, found = (np.array(make()) for make in peers.values())
        apart = np.abs(wanted - found).max()
        print(f"{args.images} pictures, {args.references} references, pairs: {count}; scores differ by {apart:.1e}")
        assert apart < 1e-5, "the peers do not find the same scores"
        report(interleaved(peers, args.blocks), "ours")


if __name__ == "__main__":
    main()
