"""Makes the weights of the embedded world: `python -m data.world64.pretrain [PART ...] --minutes M [--device cuda]`.

Without a part it does all of them, one after the other, each for its share of the minutes. Every part goes on where it was
killed; one that was trained for fewer minutes goes on to more.
"""

import argparse

import torch
import torch.multiprocessing as mp

from .loop import Run
from .pretrain_vae import train as train_vae


def _encoder(rank: int, run: dict, thousands: int, batch: int) -> None:
    train_vae("encoder", thousands, batch, Run(rank=rank, **run))


def _decoder(rank: int, run: dict, thousands: int, batch: int) -> None:
    train_vae("decoder", thousands, batch, Run(rank=rank, **run))


PARTS = {"encoder": _encoder, "decoder": _decoder}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--thousands", type=int, default=30)
    args = parser.parse_args()
    for part in args.parts:
        run = {"seconds": 60 * args.minutes, "device": args.device, "processes": args.processes}
        if args.processes == 1:
            PARTS[part](0, run, args.thousands, args.batch)
        else:
            mp.spawn(PARTS[part], (run, args.thousands, args.batch), args.processes)
