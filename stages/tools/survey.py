"""Runs a preference study with people: `make` writes a page to hand out, `read` imports the returned answers."""

import argparse
import sys
from pathlib import Path

from stages.core.command import log
from stages.files import artifact
from stages.files.writing import write_file
from stages.runtime.arguments import Parser
from stages.runtime.exits import attempt
from stages.runtime.faults import ConfigFault

PAGES = Path("people")
PREFERENCE = "the preference to detect: the share of choices that one of two strategies gets (default: %(default)s)"


def make(args: argparse.Namespace) -> None:
    from stages.core.params import load
    from stages.evaluation import survey
    from stages.reporting import questionnaire
    from stages.runtime.formatting import size

    params = load()
    if args.to:
        _check_page(args.to)
    page, key = questionnaire.make(params, args.comparisons, args.each)
    folder = survey.ROOT / params.study
    survey.refuse_another_page(folder, key)
    target = args.to or PAGES / f"{params.study}.html"
    each = min(args.each, len(key["comparisons"]))
    answers, people = questionnaire.needed(args.preference, len(params.strategies), each)
    for path, content in ((target, page), (folder / survey.KEY, artifact.to_json(key))):
        write_file(path, content)
    print(f"{target}: {size(len(page))}. Hand out only this file. Each person answers questions about {each} pairs,")
    print(f"of which {survey.CHECKS} have a known answer.")
    print(f"Detecting a preference of {args.preference:.0%} between two strategies takes about {answers} answers,")
    print(f"and for all pairs of strategies about {people} people. Then: palimpsest study read FILE")


def _check_page(path: Path) -> None:
    """Checks that a path can be that of the page. Raises ConfigFault."""
    artifact.check_folder(path.parent)
    if path.is_dir():
        raise ConfigFault(f"--to {path}: is a folder. Give the page itself, as in {path / 'page.html'}.")


def read(args: argparse.Namespace) -> None:
    from stages.core.params import load
    from stages.evaluation import preference, survey
    from stages.reporting import regimes, survey_wording

    params = load()
    preference.answers_needed(args.preference)  # refuses an impossible one before files are saved
    added = survey.import_answers(args.files, folder := survey.ROOT / params.study)
    print(f"{added} of {len(args.files)} files are new and were saved in {folder}.")
    result = preference.people(params.study, params.report.confidence)
    if result:
        print(survey_wording.in_words(result, regimes.of(params), args.preference))
    log.info("Run the study again to include the answers in the report.")


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    purposes = {
        "make": "writes the page, and the answer key, which stays here",
        "read": "checks and saves files of answers, and summarises them",
    }
    first, second = (
        verbs.add_parser(name, help=text, description=f"{text.capitalize()}.") for name, text in purposes.items()
    )
    first.add_argument("--to", type=Path, metavar="FILE", help=f"the page (default: {PAGES}/STUDY.html)")
    first.add_argument(
        "--comparisons", type=int, metavar="N", default=120, help="pairs of pictures per domain (default: %(default)s)"
    )
    first.add_argument("--each", type=int, metavar="N", default=40, help="pairs per person (default: %(default)s)")
    second.add_argument("files", type=Path, nargs="+", metavar="FILE", help="what people sent back")
    for verb in (first, second):
        verb.add_argument("--preference", type=float, metavar="SHARE", default=0.6, help=PREFERENCE)


def main() -> None:
    arguments(parser := Parser(description=__doc__))
    args = parser.parse_args()
    sys.exit(attempt(lambda: {"make": make, "read": read}[args.verb](args)))


if __name__ == "__main__":
    main()
