"""Chooses the default study's hyperparameters, on concepts and a seed that the study does not use.

`python -m data.world.tune '{"train": {"rank": 8}}' '{"train": {"steps": 100}, "sample": {"guidance": 4}}' ...` teaches
the tuning objects with each of these changes to params.yaml and prints what was learnt and what was kept.
"""

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image

from stages.adapters.state import State
from stages.core.dataset import Concept
from stages.core.metric import pairwise
from stages.core.params import Params, load
from stages.core.runs import Run, TaskSequence
from stages.core.states import merge_generator
from stages.files.pictures import open_png
from stages.sampling.sampler import sample
from stages.training.task import Inputs, train

SEED = 1000  # the study's seeds are small numbers


def tuned(changes: dict[str, dict[str, Any]], images: int) -> Params:
    tree = load().model_dump(mode="json")
    tree["dataset"]["options"]["tuning"] = True
    tree["sample"] |= {"seed": SEED, "images": images}
    for section, values in changes.items():
        tree[section] |= values
    return Params.model_validate_json(json.dumps(tree))


def pictures(concept: Concept) -> list[Image.Image]:
    return [picture.origin() for picture in concept.training]  # type: ignore[operator]


class Measure:
    """Judges pictures by their likeness to the references of all the tuning objects, as the study's report does."""

    def __init__(self, params: Params, concepts: list[Concept]) -> None:
        self.params, self.concepts = params, concepts
        self.judge = params.judges[params.report.identity]
        self.references = [self.judge.embed(pictures(concept)) for concept in concepts]

    def __call__(self, state: State, places: list[int]) -> torch.Tensor:
        """Of the pictures of each of these concepts [row], the mean likeness to their own references and top-1."""
        rows, prompts = [], [self.concepts[place].prompts for place in places]
        for place, files in zip(places, sample(self.params, state, prompts), strict=True):
            vectors = self.judge.embed([open_png(file) for file in files])
            to_each = torch.stack([pairwise(vectors, reference) for reference in self.references], 1)
            rows.append(torch.stack([to_each[:, place].mean(), (to_each.argmax(1) == place).double().mean()]))
        return torch.stack(rows)


def study(params: Params, strategy: str, concepts: list[Concept], measure: Measure) -> str:
    """One line: what is there right after learning, at the end, and how often it is recognised."""
    run, state, learnt = Run(TaskSequence("tune", "objects", "tune"), strategy, SEED), State(), []
    for place, concept in enumerate(concepts):
        facts = {"concept": asdict(concept), "pictures": {"training": [{"caption": None}] * len(concept.training)}}
        adapter, _ = train(params, run, f"{place + 1:02d}", Inputs(facts, pictures(concept), state))
        state = params.make_strategy(strategy).merge(state, adapter, merge_generator(run, f"{place + 1:02d}"))
        learnt.append(measure(state, [place])[0])
    earlier = list(range(len(concepts) - 1))
    own, end = torch.stack(learnt), measure(state, earlier)
    return (
        f"{strategy:11} when learnt {own[:, 0].mean():.3f}, top-1 {own[:, 1].mean():.2f} "
        f"({' '.join(f'{share:.1f}' for share in own[:, 1])})  "
        f"forgetting {(own[:-1] - end)[:, 0].mean():.3f}, top-1 of the earlier at the end {end[:, 1].mean():.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="+", type=json.loads, help="section: {key: value}, as JSON")
    parser.add_argument("--strategies", nargs="+", default=["naive", "merge_init"])
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--images", type=int, default=2)
    args = parser.parse_args()
    for changes in args.changes:
        params = tuned(changes, args.images)
        concepts = [params.data.concept("objects", name) for name in params.data.domains()["objects"][: args.tasks]]
        measure = Measure(params, concepts)
        base = measure(State(), list(range(len(concepts)))).mean(0)
        print(f"{changes}: base {base[0]:.3f}, top-1 {base[1]:.2f}", flush=True)
        for strategy in args.strategies:
            began = time.monotonic()
            line = study(params, strategy, concepts, measure)
            print(f"  {line}  {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
