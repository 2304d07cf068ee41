"""Lists the profiles, or makes one of them the current study: `python -m stages.profile use quick`."""

import argparse
import sys

from stages.core import models, profiles
from stages.core.faults import Fault


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="what there is")
    show = verbs.add_parser("show", help="print one as params.yaml would hold it")
    use = verbs.add_parser("use", help="write one to params.yaml")
    for verb in (show, use):
        verb.add_argument("name")
        verb.add_argument("--memory", metavar="GB", help=f"settings for a GPU of {', '.join(profiles.presets())} GB")
    use.add_argument("--force", action="store_true", help="drop changes to params.yaml that no profile has")
    args = parser.parse_args()
    try:
        if args.verb == "list":
            print("\n".join(f"{name:12} {profiles.summary(name)}" for name in profiles.names()))
        elif args.verb == "show":
            print(profiles.text(args.name, args.memory), end="")
        else:
            changed = profiles.use(args.name, args.force, args.memory)
            chosen = args.name + (f" for {args.memory} GB" if args.memory else "")
            print(f"params.yaml is now {chosen}." if changed else f"params.yaml is {chosen} already.")
            lock = models.read_lock()
            needed = [
                name for name in models.wanted(profiles.tree(args.name), lock) if models.lacking(name, lock[name])
            ]
            if needed:
                print(f"It needs weights that are not here yet: make weights PROFILE={args.name}")
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
