"""Scores the images after one task. Reads images, data and the scores before; writes scores, embeddings and references.

The references of a task are embedded once, when it is learned, and copied from task to task. For metrics that do not
embed, the reference pictures are copied instead.
"""

import argparse

from stages.core.command import main
from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, provenance
from stages.evaluation.scorer import References, Scorer, references_for
from stages.files import artifact, tables


def score(params: Params, run: Run | TaskSequence, args: argparse.Namespace) -> None:
    """Publishes the scores of a run after `args.task`; of the base, for a sequence.

    Raises:
        InputFault: images, data or earlier scores are missing or damaged.
    """
    task: str | None = getattr(args, "task", None)
    folder = run.at(task or "") if isinstance(run, Run) else run.base
    images = artifact.read(folder / "images", "images")
    references = references_for(params, run, task)
    scorer = Scorer(params.judges, references)
    scorer.score(folder / "images", int(task or 0), images["tasks"])
    columns = {
        "scores": (tables.SCORES, scorer.scores),
        "embeddings": (tables.EMBEDDINGS, scorer.embeddings),
        "references": (tables.REFERENCES, scorer.references),
    }
    if "plain" in images:
        plain = Scorer(params.judges, References(scorer.references, references.files))
        plain.score(folder / "images" / "plain", int(task or 0), images["plain"]["tasks"])
        columns |= {"plain-scores": (tables.SCORES, plain.scores)}
    facts = provenance(params, run) | {"encoders": scorer.encoders}
    with artifact.publish(folder / "scores", "scores", facts, {"images": folder / "images"}) as draft:
        for name, (schema, rows) in columns.items():
            tables.write(draft / f"{name}.parquet", schema, rows)
        references.write(draft.path)


if __name__ == "__main__":
    main(__doc__, score, "run", base=True)
