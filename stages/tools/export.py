"""Exports a run as a LoRA: `python -m stages.tools.export objects/0/merge_init/0 --task 03 --to my_lora`.

Without arguments it exports the strategy that the report prefers, after the last task, to the folder exports.

reads   the state or adapter after the task, the data of its concepts, the contact sheet if there is a report
writes  the weights as safetensors, a model card, and the contact sheet

--format kohya is for ComfyUI, A1111, Forge and kohya's scripts; diffusers reads it too, except full matrices.
The export is exact up to rounding, unless --rank truncates it: then the error of every layer is logged. A missing
state is rebuilt from the adapters. A folder written by stages.tools.import_lora can be given instead of a run. What an
earlier export wrote is replaced; any other file in its place is an error.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import main
from stages.runtime.faults import ConfigFault
from stages.tools.exchange.arguments import add_origin

if TYPE_CHECKING:
    from stages.core.params import Params

log = logging.getLogger("palimpsest")
EXPORTS = Path("exports")


def arguments(parser: argparse.ArgumentParser) -> None:
    add_origin(parser)
    parser.add_argument("--format", choices=("kohya", "diffusers"), default="kohya")
    parser.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="fp16")
    parser.add_argument("--rank", type=int, metavar="N", help="truncate to the closest adapter of this rank")
    parser.add_argument("--accept-error", action="store_true", help="export even if the error of a layer exceeds 10%%")
    parser.add_argument(
        "--to", default=EXPORTS, type=Path, metavar="PATH", help=f"NAME.safetensors, or a folder; default: {EXPORTS}"
    )
    parser.add_argument("--verbose", action="store_true", help="log the error of every layer even without truncation")


def export(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.runtime.formatting import size
    from stages.tools.exchange.exporting import DTYPES, ROUNDING_LIMIT, check_target, check_truncation, pack, write
    from stages.tools.exchange.source import find_origin

    if args.accept_error and args.rank is None:
        raise ConfigFault("--accept-error: give --rank, too; without it nothing is truncated.")
    origin = find_origin(params, args.key, args.task, args.what)
    check_target(args.to, origin, args.format)
    if origin.data and not origin.picture:  # an imported adapter never has one
        log.info("No contact sheet: the report is missing or was changed. Make it: palimpsest run")
    packed = pack(origin.delta, args.format, DTYPES[args.dtype], args.rank, params.family.module_names())
    for name, error in packed.layers() if packed.truncated or args.verbose else ():
        log.info("%-90s %.3g", name, error)
    if args.rank is not None:
        check_truncation(packed, args.accept_error)
    elif packed.worst > ROUNDING_LIMIT:
        log.warning("--dtype %s: small numbers are rounded noticeably; --dtype fp32 avoids that", args.dtype)
    path = write(params, origin, packed, args.format, args.dtype, args.to)
    written = size(path.stat().st_size)
    print(f"{path}: {args.format}, {args.dtype}, rank {packed.rank}, {written}; {packed.summary()}")


if __name__ == "__main__":
    main(__doc__, export, None, more=arguments)
