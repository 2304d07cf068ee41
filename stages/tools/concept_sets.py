"""Chooses the concepts that look most alike, and those that look least alike: `python -m stages.tools.concept_sets`.

Compares the reference pictures of all concepts of a domain by the metric of identity, or another that embeds pictures:
the likeness of two concepts is the mean cosine between their pictures. Prints both sets. With --write, they become the
domains `similar` and `diverse` of params.yaml, subsets of its dataset, with as many concepts as there are tasks.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from stages.core.command import main
from stages.core.dataset import Concept
from stages.core.metric import EmbeddingMetric
from stages.core.params import Params
from stages.evaluation.geometry.likeness import choose, likeness, mean_likeness
from stages.evaluation.transfer import Array
from stages.files.pictures import open_png
from stages.files.undo import locked
from stages.files.writing import write_file
from stages.files.yaml import PARAMS
from stages.photos.develop import KnownPhotos, develop
from stages.runtime.faults import ConfigFault, nearest
from stages.runtime.formatting import in_columns
from stages.runtime.progress import track
from stages.tools.edit_params import params_text, with_sets

SETS = {"similar": True, "diverse": False}  # name -> whether its concepts are the most alike


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--domain", metavar="NAME", help="choose from its concepts (default: objects, or the only one)")
    parser.add_argument("--count", type=int, metavar="K", help="concepts per set (default: the number of tasks)")
    parser.add_argument("--metric", metavar="NAME", help="one of score.metrics (default: report.identity)")
    parser.add_argument("--write", action="store_true", help="write both sets to params.yaml, for all orders")


def concept_sets(params: Params, key: None, args: argparse.Namespace) -> None:
    """Prints, and perhaps writes, the sets.

    Raises:
        ConfigFault: an argument does not fit the study, or params.yaml cannot hold the sets.
        InputFault: a concept's pictures cannot be used.
    """
    judge, domain = _judge(params, args.metric), _domain(params, args.domain)
    names = params.data.names(domain)
    count = len(params.tasks) if args.count is None else args.count
    if not 2 <= count <= len(names):
        raise ConfigFault(f"--count {count}: must be from 2 to {len(names)}, the number of {domain}.")
    if args.write and count != len(params.tasks):
        raise ConfigFault(f"--count {count}: with --write it must be the number of tasks, {len(params.tasks)}.")
    vectors = [_vectors(params, params.data.concept(domain, name), judge) for name in track(names, len(names), "embed")]
    alike = likeness(vectors)
    sets, every = chosen_sets(names, alike, count), mean_likeness(alike, range(len(names)))
    rows = [[name, f"{mean:.3f}", ", ".join(concepts)] for name, (concepts, mean) in sets.items()]
    print(in_columns([["set", "likeness", "concepts"], *rows, [f"all {len(names)}", f"{every:.3f}", ""]]))
    if args.write:
        listed = {name: concepts for name, (concepts, _) in sets.items()}
        with locked():
            write_file(PARAMS, with_sets(params_text(), listed, domain))


def chosen_sets(names: list[str], alike: Array, count: int) -> dict[str, tuple[list[str], float]]:
    """Returns by set its concepts, in the dataset's order, and their mean likeness."""
    sets = {}
    for name, most in SETS.items():
        chosen = sorted(choose(alike, count, most))
        sets[name] = ([names[k] for k in chosen], mean_likeness(alike, chosen))
    return sets


def _judge(params: Params, name: str | None) -> EmbeddingMetric:
    judges = {key: one for key, one in params.judges.items() if isinstance(one, EmbeddingMetric) and one.recognises}
    if (chosen := name or params.report.identity) not in judges:
        raise ConfigFault(f"--metric {chosen}: does not embed pictures to compare them. {nearest(chosen, judges)}")
    return judges[chosen]


def _domain(params: Params, name: str | None) -> str:
    """The domain to choose from, which is none of the sets."""
    domains = params.data.domains()
    chosen = name or ("objects" if "objects" in domains else next(iter(domains)))
    if chosen not in domains:
        raise ConfigFault(f"--domain {chosen}: the dataset has no such domain. {nearest(chosen, domains)}")
    return chosen


def _vectors(params: Params, concept: Concept, judge: EmbeddingMetric) -> Array:
    """The unit vectors of a concept's references, as a study prepares and scores them, [pictures, d]."""
    with TemporaryDirectory() as folder:
        developed = develop(concept, params.prepare, Path(folder), KnownPhotos())
        pictures = [open_png(Path(folder, entry["file"])) for entry in developed.pictures["references"]]
        return np.asarray(judge.embed(pictures).numpy(), np.float64)


if __name__ == "__main__":
    main(__doc__, concept_sets, None, more=arguments)
