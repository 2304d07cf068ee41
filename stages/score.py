"""Scores the images after one task. Reads images, data and the scores before; writes scores, embeddings and references.

The references of a task are embedded once, when it is learnt, and handed on from task to task; for metrics that do not
embed, the pictures themselves are.
"""

import argparse

from stages.core.command import main
from stages.core.params import Params
from stages.core.runs import Run, TaskSequence, provenance
from stages.evaluation.scorer import References, Scorer, references_for
from stages.files import artifact, tables


def score(params: Params, run: Run | TaskSequence, args: argparse.Namespace) -> None:
    task: str | None = getattr(args, "task", None)
    folder = run.at(task or "") if isinstance(run, Run) else run.base
    images = artifact.read(folder / "images", "images")
    references = references_for(params, run, task)
    scorer = Scorer(params.judges, references)
    scorer.score(folder / "images", int(task or 0), images["tasks"])
    written = {
        "scores": (tables.SCORES, scorer.scores),
        "embeddings": (tables.EMBEDDINGS, scorer.embeddings),
        "references": (tables.REFERENCES, scorer.references),
    }
    if "plain" in images:
        plain = Scorer(params.judges, References(scorer.references, references.files))
        plain.score(folder / "images" / "plain", int(task or 0), images["plain"]["tasks"])
        written |= {"plain-scores": (tables.SCORES, plain.scores)}
    facts = provenance(params, run) | {"encoders": scorer.encoders}
    with artifact.publish(folder / "scores", "scores", facts, {"images": folder / "images"}) as draft:
        for name, (schema, rows) in written.items():
            tables.write(draft / f"{name}.parquet", schema, rows)
        references.write(draft.path)


if __name__ == "__main__":
    main(__doc__, score, "run", base=True)
