"""Asks people which pictures are right: `make` writes a page to hand out, `read` takes the files that come back."""

import argparse
import sys
from pathlib import Path

from stages.core.command import log
from stages.files import artifact
from stages.files.writing import write_file
from stages.runtime.exits import attempt

PAGES = Path("people")


def make(args: argparse.Namespace) -> None:
    from stages.core.params import load
    from stages.evaluation import survey
    from stages.reporting import questionnaire

    params = load()
    page, key = questionnaire.make(params, args.comparisons, args.each)
    folder = survey.ROOT / params.study
    survey.refuse_another_page(folder, key)
    target = args.to or PAGES / f"{params.study}.html"
    for path, content in ((target, page), (folder / survey.KEY, artifact.to_json(key))):
        write_file(path, content)
    needed, people = questionnaire.needed(args.preference, len(params.strategies), args.each)
    print(f"{target}: {len(key['comparisons'])} comparisons, {len(page) / 1e6:.1f} MB. Hand out this file alone.")
    print(f"To show a preference of {args.preference:.0%} between two strategies takes {needed} choices, so")
    print(f"about {people} people who each see {args.each}. What they save goes to: palimpsest study read FILE ...")


def read(args: argparse.Namespace) -> None:
    from stages.core.params import load
    from stages.evaluation import preference, survey
    from stages.reporting import survey_wording

    params = load()
    kept = survey.keep(args.files, folder := survey.ROOT / params.study)
    print(f"{kept} of {len(args.files)} files are new and kept in {folder}.")
    found = preference.people(params.study, params.report.confidence)
    if found:
        print(survey_wording.in_words(found))
    log.info("Run the study again and the report shows this too.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("make", help="write the page, and the key that stays here")
    first.add_argument("--to", type=Path, help=f"where the page goes; {PAGES}/<study>.html if not said")
    first.add_argument("--comparisons", type=int, default=120, help="per domain (120)")
    first.add_argument("--each", type=int, default=40, help="what one person is shown (40)")
    first.add_argument("--preference", type=float, default=0.6, help="to be found, for the number of people (0.6)")
    second = verbs.add_parser("read", help="check and keep files of answers, and say what they say")
    second.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    sys.exit(attempt(lambda: {"make": make, "read": read}[args.verb](args)))


if __name__ == "__main__":
    main()
