"""Checks the photos of one concept and resizes them to one size: `python -m stages.prepare objects/0 --task 01`.

reads   the dataset's pictures (source and dataset in params.yaml)
writes  data/NN of the sequence: training/00.png ..., references/00.png ..., and their metadata
"""

import argparse
import logging

from stages.core.command import main
from stages.core.dataset import facts_of
from stages.core.params import Params
from stages.core.runs import TaskSequence
from stages.files import artifact
from stages.photos.develop import develop, earlier_photos

log = logging.getLogger("palimpsest")


def prepare(params: Params, sequence: TaskSequence, args: argparse.Namespace) -> None:
    """Publishes the pictures of the concept at position `args.task`.

    Raises:
        ConfigFault: the concept does not exist or breaks a rule.
        InputFault: some photos cannot be used.
    """
    concepts = params.concepts(sequence.domain, sequence.order)
    concept = concepts[args.task]
    earlier = [other for index, other in concepts.items() if index < args.task]
    facts = {
        "domain": sequence.domain,
        "order": sequence.order,
        "position": int(args.task),
        "concept": facts_of(concept),
        "resolution": params.prepare.resolution,
    }
    if options := params.prepare.non_default():
        facts["prepared"] = options
    with artifact.publish(sequence.data(args.task), "data", facts) as draft:
        developed = develop(concept, params.prepare, draft.path, earlier_photos(earlier, params.prepare))
        draft.note(pictures=developed.pictures)
    for warning in developed.warnings:
        log.warning("%s %s: %s", args.task, concept.name, warning)
    training, references = (len(developed.pictures[role]) for role in ("training", "references"))
    log.info("%s %s: %d training pictures, %d references", args.task, concept.name, training, references)


if __name__ == "__main__":
    main(__doc__, prepare, "sequence")
