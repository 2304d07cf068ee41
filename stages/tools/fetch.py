"""Downloads the weights pinned in data/models.yaml: `python -m stages.tools.fetch --for sdxl-quick`.

Only safetensors, JSON and text are stored. Every file is checked against its sha256, and existing files are not
downloaded again. A model published only as a pickle is checked, converted to safetensors without running any code in
it, and deleted.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from stages.core.command import show_log
from stages.runtime.arguments import Parser
from stages.runtime.exits import attempt
from stages.runtime.faults import ConfigFault


def convert(converter: str, source: Path, target: Path) -> None:
    """Converts a pickle to safetensors with the named module of stages/metrics/weights/convert."""
    import_module(f"stages.metrics.weights.convert.{converter}").convert(source, target)


def work(args: argparse.Namespace) -> None:
    from stages.files import model_lock
    from stages.tools import profiles
    from stages.tools.exchange import download

    lock, names = model_lock.read_lock(), list(args.names)
    if args.profile:
        names += model_lock.models_used(profiles.tree(args.profile), lock)
        print(f"{args.profile} needs {', '.join(names) or 'no external weights'}.")
    elif not names:
        if args.folder or args.pin:
            option = f"--from {args.folder}" if args.folder else "--pin"
            raise ConfigFault(f"{option}: name a model, or give --for PROFILE.")
        print("\n".join(model_lock.describe(name, model) for name, model in lock.items()))
    for name in names:
        download.check_before_download(name, model_lock.find(lock, name), args.pin)
    for name in names:
        folder = args.folder and (args.folder if len(args.names) == 1 else args.folder / name)
        files = download.fetch_model(name, model_lock.find(lock, name), folder, args.hub, args.pin, convert)
        print(f"{name} is in {model_lock.FOLDER / name}, its revision is {model_lock.content_digest(files)}.")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="MODEL", help="keys of data/models.yaml; none lists them all")
    parser.add_argument("--for", dest="profile", metavar="PROFILE", help="fetch everything this profile needs")
    parser.add_argument("--from", dest="folder", type=Path, metavar="FOLDER", help="copy the files from this folder")
    parser.add_argument("--hub", default=os.environ.get("HF_ENDPOINT"), metavar="URL", help="another hub or a mirror")
    parser.add_argument("--pin", action="store_true", help="record commits, sizes and hashes that are not pinned yet")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def main() -> int:
    arguments(parser := Parser(description=__doc__))
    args = parser.parse_args()
    show_log()
    return attempt(lambda: work(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
