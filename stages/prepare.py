"""Verifies the photos of one concept and brings them to one size: `python -m stages.prepare objects/0 --task 01`.

reads   the dataset's pictures (source and dataset in params.yaml)
writes  data/NN of the sequence: training/00.png ..., references/00.png ..., and what is known of each of them
"""

import argparse
import logging

from stages.core import artifact
from stages.core.cli import main
from stages.core.dataset import Concept
from stages.core.params import Params
from stages.core.photos import develop, recall
from stages.core.runs import Sequence

log = logging.getLogger("palimpsest")


def prepare(params: Params, sequence: Sequence, args: argparse.Namespace) -> None:
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
        developed = develop(concept, params.prepare, draft, recall(before, params.prepare))
        facts["pictures"] = developed.pictures
    for warning in developed.warnings:
        log.warning("%s %s: %s", args.task, concept.name, warning)
    training, references = (len(developed.pictures[role]) for role in ("training", "references"))
    log.info("%s %s: %d to learn from, %d to compare with", args.task, concept.name, training, references)


def facts_of(concept: Concept) -> dict[str, object]:
    return {
        "name": concept.name,
        "token": concept.token,
        "noun": concept.noun,
        "training_prompt": concept.training_prompt,
        "prompts": list(concept.prompts),
        "plain_prompts": list(concept.plain_prompts),
    }


if __name__ == "__main__":
    main(__doc__, prepare, "sequence")
