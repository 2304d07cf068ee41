"""Downloads the weights pinned in data/models.yaml: `python -m stages.tools.fetch --for sdxl-quick`.

Only safetensors, JSON and text are kept; every file is compared with its sha256; what is here is not fetched again. A
model that is published as a pickle only is compared, made safetensors without running code that is in it, and deleted.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from stages.core.command import show_log
from stages.runtime.exits import EXIT_CODES, attempt


def convert(converter: str, source: Path, target: Path) -> None:
    import_module(f"stages.metrics.weights.convert.{converter}").convert(source, target)


def work(args: argparse.Namespace) -> None:
    from stages.files import model_lock
    from stages.tools import profiles
    from stages.tools.exchange import download

    lock, names = model_lock.read_lock(), list(args.names)
    if args.profile:
        names += model_lock.wanted(profiles.tree(args.profile), lock)
        print(f"{args.profile} needs {', '.join(names) or 'no weights from outside'}.")
    elif not names:
        print("\n".join(model_lock.describe(name, model) for name, model in lock.items()))
    for name in names:
        download.consider(name, model_lock.find(lock, name), args.pin)
    for name in names:
        folder = args.folder and (args.folder if len(args.names) == 1 else args.folder / name)
        found = download.bring(name, model_lock.find(lock, name), folder, args.hub, args.pin, convert)
        print(f"{name} is in {model_lock.FOLDER / name}, its revision is {model_lock.content(found)}.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help="of data/models.yaml; without any, a list of them")
    parser.add_argument("--for", dest="profile", metavar="PROFILE", help="all that this profile needs")
    parser.add_argument("--from", dest="folder", type=Path, metavar="FOLDER", help="take the files from this folder")
    parser.add_argument("--hub", default=os.environ.get("HF_ENDPOINT"), metavar="URL", help="another hub, or a mirror")
    parser.add_argument("--pin", action="store_true", help="record commits, sizes and hashes that are not known yet")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    show_log()
    return attempt(lambda: work(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
