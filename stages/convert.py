"""Turns the checkpoint that CSD publishes, a pickle, into safetensors, once: `python -m stages.convert FILE`.

No code of the pickle runs, and a weight that is missing, unexpected or of another shape is an error.
The checkpoint is that of https://huggingface.co/tomg-group-umd/CSD-ViT-L at the revision that data/models.yaml pins.
"""

import argparse
import sys
from pathlib import Path

from stages.core import models
from stages.core.artifact import sha256
from stages.core.ending import EXIT_CODES, attempt
from stages.core.faults import InputFault

NAME, FILE = "judges/csd-vit-l-14", "model.safetensors"
PUBLISHED = "40e92fad63a361b8136100cd234c42d401ef9b34ff1748234318929ebcc7e7a1"  # pytorch_model.bin, 2,438,228,893 bytes


def work(args: argparse.Namespace) -> None:
    from stages.metrics.csd_checkpoint import convert

    if not args.checkpoint.is_file():
        raise InputFault(f"{args.checkpoint}: there is no such file.")
    found = sha256(args.checkpoint)
    if found != args.sha256:
        raise InputFault(f"{args.checkpoint}: its sha256 is {found}, expected {args.sha256}. Get it again.")
    target = models.FOLDER / NAME / FILE
    known = models.find(models.read_lock(), NAME)
    made = convert(args.checkpoint, target)
    print(f"{target} is written, its sha256 is {made}.")
    pinned = known.files[FILE].sha256
    if pinned is None:
        models.pin(NAME, known.revision, {FILE: models.File(size=target.stat().st_size, sha256=made)})
        print(f"It is pinned in {models.LOCK} now.")
    elif pinned != made:
        target.unlink()
        raise InputFault(f"{models.LOCK} pins {pinned}; the file was removed.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE")
    parser.add_argument("--sha256", default=PUBLISHED, help="of another release of the checkpoint")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    return attempt(lambda: work(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
