"""Makes the weights of the embedded world: `python -m data.world.pretrain --minutes M [--device cuda] [PART ...]`.

Without a part it makes all of them, one after the other, each in its share of the minutes; a named part gets all the
minutes. `python -m data.world.pretrain --device cuda --minutes 9` makes everything on one GPU. A part continues where
it was killed, and trains further if it is given more minutes than before. Pictures are drawn first, by all processors,
and stored with the checkpoints in .cache/world (or WORLD_CACHE); no file of a checkpoint is larger than 16 MB.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.multiprocessing as mp

from data.world import recogniser
from data.world.lessons.objects import family_pictures
from data.world.lessons.styles import style_pictures
from data.world.recipes import pretrain_base, pretrain_judges, pretrain_vae
from data.world.recipes.loop import Run
from data.world.recipes.pool import pictures


@dataclass(frozen=True)
class Size:
    """How many pictures are drawn, and the batch sizes."""

    thousands: int  # of pictures of the base's world, and of any scenes
    families: int  # hundreds
    styles: int  # tens of groups
    pictures: int  # a batch of the autoencoder
    latents: int  # a batch of the base


SIZES = {
    "cpu": Size(thousands=30, families=20, styles=20, pictures=16, latents=64),
    "cuda": Size(thousands=200, families=80, styles=60, pictures=256, latents=1024),
    "tiny": Size(thousands=1, families=1, styles=1, pictures=8, latents=16),
}
BETWEEN = 6.0  # seconds that each part takes to load its pictures, which count as part of the minutes
# Each part, and its share of the time.
PARTS: dict[str, tuple[float, Callable[[Size, Run], None]]] = {
    "encoder": (0.26, lambda size, run: pretrain_vae.train("encoder", size.thousands, size.pictures, run)),
    "base": (0.38, lambda size, run: pretrain_base.train(size.thousands, size.latents, run)),
    "decoder": (0.09, lambda size, run: pretrain_vae.train("decoder", size.thousands, size.pictures, run)),
    "sight": (0.04, lambda size, run: pretrain_judges.train_sight(size.families, run)),
    "dino": (0.07, lambda size, run: pretrain_judges.train_dino(size.families, run)),
    "clip": (0.07, lambda size, run: pretrain_judges.train_clip(size.families, size.thousands, run)),
    "csd": (0.06, lambda size, run: pretrain_judges.train_csd(size.styles, run)),
    "recogniser": (0.03, lambda size, run: recogniser.train(size.thousands, run)),
}


def _work(rank: int, part: str, size: Size, run: Run) -> None:
    if run.device != "cpu":
        torch.set_float32_matmul_precision("high")
    PARTS[part][1](size, replace(run, rank=rank))


def prepare(size: Size) -> None:
    """Draws all missing pictures."""
    for kind in ("any", "base"):
        pictures(kind, size.thousands)
    family_pictures(size.families)
    style_pictures(size.styles)


def make(part: str, size: Size, run: Run) -> None:
    began = time.monotonic()
    if run.processes == 1:
        _work(0, part, size, run)
    else:
        mp.spawn(_work, (part, size, run), run.processes)
    print(f"{part} took {time.monotonic() - began:.0f} s, drawing included", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--minutes", type=float, required=True, help="of training, killed runs included")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="processes that train together on a CPU")
    parser.add_argument("--size", choices=SIZES, help="how many pictures are drawn; default: as fits the device")
    parser.add_argument("--no-write", action="store_true", help="do not update the folder `base`")
    args = parser.parse_args()
    size, seconds = SIZES[args.size or args.device.split(":")[0]], 60 * args.minutes
    if not args.parts:
        began = time.monotonic()
        prepare(size)
        print(f"all pictures drawn after {time.monotonic() - began:.0f} s", flush=True)
        seconds -= time.monotonic() - began + BETWEEN * len(PARTS)
    for part in args.parts or PARTS:
        share = 1.0 if args.parts else PARTS[part][0]
        make(part, size, Run(seconds * share, args.device, processes=args.processes))
    if not args.no_write and {"base", "decoder"} & set(args.parts or PARTS):
        pretrain_base.write()
