"""Writes an SDXL with random weights: `python -m stages.tools.random_sdxl data/models/standin`.

Its architecture, weight names and tokenizer are those of the real model, so that loading, speed, memory and export can
be tried without the real weights. The same seed gives the same bytes.
"""

import argparse
import shutil
import sys
from pathlib import Path

from stages.runtime.arguments import Parser
from stages.runtime.exits import attempt
from stages.runtime.faults import ConfigFault, MachineFault

BYTES = {"full": 7e9, "hundredth": 7e7}  # needed on disk, by scale


def work(args: argparse.Namespace) -> None:
    from stages.families.unet.random_weights import SCALES, write
    from stages.files.writing import new_folder
    from stages.runtime.formatting import size

    folder: Path = args.folder
    if folder.exists():
        raise ConfigFault(f"{folder}: already exists. Name a new folder, or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < BYTES[args.scale]:
        raise MachineFault(f"{folder}: needs {size(BYTES[args.scale])}, {size(free)} are free.")
    with new_folder(folder) as draft:
        revision = write(draft, args.scale, args.seed, lambda line: print(line, flush=True))
    options = f"{{path: {folder}, revision: {revision}, pixels: {SCALES[args.scale].pixels}}}"
    print(f"In params.yaml: base: {{name: sdxl, options: {options}}}")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument("--scale", choices=list(BYTES), default="hundredth", help="full needs 7 GB on disk")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def main() -> int:
    arguments(parser := Parser(description=__doc__))
    args = parser.parse_args()
    return attempt(lambda: work(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
