"""Samples any prompt: `python -m stages.tools.paint objects/0/naive/0 --task 03 --prompt "a sks owl" --to pictures`.

Samples from the model after a task, from one task's adapter alone (--what adapter), or from an adapter in a folder
written by stages.tools.import_lora. Settings and noise come from params.yaml, so that the pictures are comparable with
those of the study.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import log, main
from stages.files.artifact import check_folder
from stages.files.writing import write_file
from stages.runtime.faults import ConfigFault
from stages.tools.exchange.arguments import add_origin

if TYPE_CHECKING:
    from stages.core.params import Params

PLACES = ("{}", "[trigger]")  # of a concept's words in captions and templates


def arguments(parser: argparse.ArgumentParser) -> None:
    add_origin(parser)
    parser.add_argument("--prompt", required=True, action="append", metavar="WORDS", help="may be repeated")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="for PROMPT-NOISE.png, from 00-00")


def paint(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.adapters.state import State
    from stages.runtime.progress import track
    from stages.sampling.reading import unread, warning
    from stages.sampling.sampler import sample
    from stages.tools.exchange.source import find_origin

    for text in args.prompt:
        check_prompt(text)
    indices = product(range(len(args.prompt)), range(params.sample.images))
    check_folder(args.to)
    targets = {index: args.to / "{:02d}-{:02d}.png".format(*index) for index in indices}
    if existing := [path for path in targets.values() if path.exists()]:
        raise ConfigFault(f"{existing[0]}: already exists. Give another --to.")
    for text, lost in unread(params.family, args.prompt).items():
        log.warning("--prompt: %s", warning(text, lost))
    origin = find_origin(params, args.key, args.task, args.what)
    params = params.model_copy(update={"sample": params.sampling(origin.facts.get("strategy", {}).get("name"))})
    state = State(origin.delta)
    groups = [[prompt] for prompt in args.prompt]
    for number, files in enumerate(track(sample(params, state, groups), len(groups), "paint")):
        for noise, file in enumerate(files):
            write_file(targets[number, noise], file.read_bytes())
    print(f"{args.to}: {len(targets)} pictures")


def check_prompt(text: str) -> None:
    """Checks that a text is a prompt, and not a template of one.

    Raises:
        ConfigFault: it is too long, has invisible characters, or a place for a concept's words.
    """
    from stages.datasets.shared.names import legible

    try:
        legible(text)
    except ValueError as error:
        raise ConfigFault(f"--prompt: {error}.") from None
    if place := next((place for place in PLACES if place in text), None):
        raise ConfigFault(f"--prompt: write a concept's words in place of {place}. See them: palimpsest concept list.")


if __name__ == "__main__":
    main(__doc__, paint, None, more=arguments)
