"""Chooses the default study's hyperparameters, on concepts and a seed that the study does not use.

`python -m data.world.tune '{"learning_rate": 0.001}' '{"learning_rate": 0.002, "steps": 100}' ...` teaches the five
tuning objects with each of these changes to `train` and prints what was learnt and what was kept.
"""

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image

from stages.core.dataset import Concept
from stages.core.metric import pairwise
from stages.core.params import Params, load
from stages.core.runs import Run, Sequence
from stages.core.steps import sample, train
from stages.core.strategy import State

SEED = 1000  # the study's seeds are small numbers


def tuned(changes: dict[str, Any], images: int) -> Params:
    tree = load().model_dump(mode="json")
    tree["dataset"]["options"]["tuning"] = True
    tree["sample"] |= {"seed": SEED, "images": images}
    tree["train"] |= changes
    return Params.model_validate_json(json.dumps(tree))


def pictures(concept: Concept) -> list[Image.Image]:
    return [picture.origin() for picture in concept.training]  # type: ignore[operator]


def similarities(params: Params, state: State, concepts: list[Concept]) -> torch.Tensor:
    """How alike the pictures of each concept [row] are to each concept's references [column], and top-1 in the last."""
    judge = params.judges[params.report.identity]
    references = [judge.embed(pictures(concept)) for concept in concepts]
    rows = []
    for place, files in enumerate(sample(params, state, [concept.prompts for concept in concepts])):
        vectors = judge.embed([Image.open(file).convert("RGB") for file in files])
        to_each = torch.stack([pairwise(vectors, reference) for reference in references], 1)
        rows.append(torch.cat([to_each.mean(0), (to_each.argmax(1) == place).double().mean()[None]]))
    return torch.stack(rows)


def study(params: Params, strategy: str, concepts: list[Concept]) -> str:
    """One line: what is there right after learning, at the end, and how often it is recognised."""
    run, state = Run(Sequence("tune", "objects", "tune"), strategy, SEED), State()
    learnt = []
    for place, concept in enumerate(concepts):
        facts = {"concept": asdict(concept), "pictures": {"training": [{"caption": None}] * len(concept.training)}}
        adapter, _ = train(params, run, f"{place + 1:02d}", state, facts, pictures(concept))
        state = params.rule(strategy).merge(state, adapter)
        learnt.append(similarities(params, state, concepts[: place + 1])[-1])
    end = similarities(params, state, concepts)
    count = len(concepts)
    own, own_end = (torch.stack([row[i] for i, row in enumerate(rows)]) for rows in (learnt, end))
    full = torch.stack([row[-1] for row in learnt])
    return (
        f"{strategy:11} when learnt {own.mean():.3f} "
        f"(top-1 of those so far {full.mean():.2f}, last {learnt[-1][-1]:.2f})  "
        f"end {own_end.mean():.3f}  forgetting {(own - own_end)[: count - 1].mean():.3f}  "
        f"top-1 earlier {end[: count - 1, -1].mean():.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="+", type=json.loads, help="changes to the section train, as JSON")
    parser.add_argument("--strategies", nargs="+", default=["naive", "merge_init"])
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--images", type=int, default=2)
    args = parser.parse_args()
    for changes in args.changes:
        params = tuned(changes, args.images)
        concepts = [params.data.concept("objects", name) for name in params.data.domains()["objects"][: args.tasks]]
        base = similarities(params, State(), concepts)
        print(f"{changes}: base {base.diagonal().mean():.3f}, top-1 {base[:, -1].mean():.2f}", flush=True)
        for strategy in args.strategies:
            began = time.monotonic()
            line = study(params, strategy, concepts)
            print(f"  {line}  {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
