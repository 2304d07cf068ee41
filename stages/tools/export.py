"""Exports a run as a LoRA: `python -m stages.tools.export objects/0/merge_init/0 --task 03 --to my_lora`.

reads   the state or adapter after the task, the data of its concepts, the sheet of pictures if there is a report
writes  the weights as safetensors, a model card, and the sheet

--format kohya is what ComfyUI, A1111, Forge and kohya's scripts load; diffusers loads it too, except whole matrices.
Nothing is lost but what the number format rounds off, unless --rank asks for less: then every layer's error is said. A
state that is not there is made again from the adapters. A folder of stages.tools.import_lora can stand for the run.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import main

if TYPE_CHECKING:
    from stages.core.params import Params

log = logging.getLogger("palimpsest")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "key", metavar="RUN", help="DOMAIN/ORDER/STRATEGY/SEED, or a folder of stages.tools.import_lora"
    )
    parser.add_argument("--task", metavar="NN", help="position in the sequence, 01 for the first")
    parser.add_argument("--what", choices=("state", "adapter"), default="state", help="all so far, or one task's")
    parser.add_argument("--format", choices=("kohya", "diffusers"), default="kohya")
    parser.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="fp16")
    parser.add_argument("--rank", type=int, metavar="N", help="the closest adapter of this rank instead of all of it")
    parser.add_argument("--accept-error", action="store_true", help="also if a layer loses over a tenth of itself")
    parser.add_argument("--to", required=True, type=Path, metavar="PLACE", help="NAME.safetensors, or a folder")
    parser.add_argument("--verbose", action="store_true", help="every layer's error, also where --rank cuts none")


def export(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.tools.exchange.exporting import DTYPES, ROUGH, check_truncation, pack, vacant, write
    from stages.tools.exchange.source import find

    origin = find(params, args.key, args.task, args.what)
    vacant(args.to, origin.name, args.format)
    packed = pack(origin.delta, args.format, DTYPES[args.dtype], args.rank, params.family.module_names())
    for name, error in packed.layers() if packed.cut or args.verbose else ():
        log.info("%-90s %.3g", name, error)
    if args.rank is not None:
        check_truncation(packed, args.accept_error)
    elif packed.worst > ROUGH:
        log.warning("in %s small numbers are rounded off; --dtype fp32 holds them", args.dtype)
    path = write(params, origin, packed, args.format, args.dtype, args.to)
    size = path.stat().st_size / 1e6
    print(f"{path}: {args.format}, {args.dtype}, rank {packed.rank}, {size:.1f} MB; {packed.summary()}")


if __name__ == "__main__":
    main(__doc__, export, None, more=arguments)
