"""Verifies the photos of one concept and brings them to one size: `python -m stages.prepare objects/0 --task 01`.

reads   the dataset's pictures (source and dataset in params.yaml)
writes  data/NN of the sequence: training/00.png ..., references/00.png ..., and what is known of each of them
"""

import argparse
import logging

from stages.core.command import main
from stages.core.dataset import facts_of
from stages.core.params import Params
from stages.core.runs import TaskSequence
from stages.files import artifact
from stages.photos.develop import develop, recall

log = logging.getLogger("palimpsest")


def prepare(params: Params, sequence: TaskSequence, args: argparse.Namespace) -> None:
    concepts = params.concepts(sequence.domain, sequence.order)
    concept = concepts[args.task]
    before = [other for index, other in concepts.items() if index < args.task]
    facts = {
        "domain": sequence.domain,
        "order": sequence.order,
        "position": int(args.task),
        "concept": facts_of(concept),
        "resolution": params.prepare.resolution,
    }
    if how := params.prepare.unusual():
        facts["prepared"] = how
    with artifact.publish(sequence.data(args.task), "data", facts) as draft:
        developed = develop(concept, params.prepare, draft.path, recall(before, params.prepare))
        draft.note(pictures=developed.pictures)
    for warning in developed.warnings:
        log.warning("%s %s: %s", args.task, concept.name, warning)
    training, references = (len(developed.pictures[role]) for role in ("training", "references"))
    log.info("%s %s: %d to learn from, %d to compare with", args.task, concept.name, training, references)


if __name__ == "__main__":
    main(__doc__, prepare, "sequence")
