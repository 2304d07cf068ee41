"""Pictures of anything: `python -m stages.tools.paint objects/0/naive/0 --task 03 --prompt "a sks star" --to pictures`.

Paints with the model after a task, with one task's adapter alone (--what adapter), or with the adapter in a folder that
stages.tools.import_lora wrote. Settings and noises are those of params.yaml, so that pictures compare with the study's.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import main
from stages.files.artifact import check_folder
from stages.files.writing import write_file
from stages.runtime.faults import ConfigFault

if TYPE_CHECKING:
    from stages.core.params import Params


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "key", metavar="RUN", help="DOMAIN/ORDER/STRATEGY/SEED, or a folder of stages.tools.import_lora"
    )
    parser.add_argument("--task", metavar="NN", help="position in the sequence, 01 for the first")
    parser.add_argument("--what", choices=("state", "adapter"), default="state", help="all so far, or one task's")
    parser.add_argument("--prompt", required=True, action="append", metavar="WORDS", help="can be given several times")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="gets PROMPT-NOISE.png, from 00-00")


def paint(params: Params, key: None, args: argparse.Namespace) -> None:
    from stages.adapters.state import State
    from stages.runtime.progress import track
    from stages.sampling.sampler import sample
    from stages.tools.exchange.source import find

    cells = product(range(len(args.prompt)), range(params.sample.images))
    check_folder(args.to)
    wanted = {cell: args.to / "{:02d}-{:02d}.png".format(*cell) for cell in cells}
    if taken := [path for path in wanted.values() if path.exists()]:
        raise ConfigFault(f"{taken[0]}: is there already. Give another --to.")
    found = find(params, args.key, args.task, args.what)
    params = params.model_copy(update={"sample": params.sampling(found.facts.get("strategy", {}).get("name"))})
    state = State(found.delta)
    groups = [[prompt] for prompt in args.prompt]
    for number, files in enumerate(track(sample(params, state, groups), len(groups), "paint")):
        for noise, file in enumerate(files):
            write_file(wanted[number, noise], file.read_bytes())
    print(f"{args.to}: {len(wanted)} pictures")


if __name__ == "__main__":
    main(__doc__, paint, None, more=arguments)
