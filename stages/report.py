"""Tells what a study has shown. Reads all its scores, pictures, losses and merge checks; writes report/<study>."""

import argparse
from pathlib import Path

from stages.core import artifact, exports, figures, gathering, grids, judgements, said, tables, text
from stages.core.cli import main
from stages.core.page.render import page
from stages.core.params import Params
from stages.core.statistics import summarise

ROOT = Path("report")


def report(params: Params, key: None, args: argparse.Namespace) -> None:
    summary, asked = summarise(params), judgements.people(params.study, params.report.confidence)
    folder = ROOT / params.study
    with artifact.publish(folder, "report", {"study": params.study}) as draft:
        drawn = []
        for name in ("figures", "grids"):
            (draft / name).mkdir()
        for verdict in summary.verdicts:
            drawn += figures.draw_all(verdict, draft / "figures")
        drawn += grids.draw_all(params, draft / "grids")
        names = [path.relative_to(draft).as_posix() for path in drawn]
        written = {
            "metrics.json": artifact.to_json(exports.metrics(summary, asked)),
            "headline.json": artifact.to_json(exports.headline(summary)),
            "matrix.csv": exports.matrix_csv(summary),
            "curve.csv": exports.curve_csv(summary),
            "differences.csv": exports.differences_csv(summary),
            "checks.csv": exports.checks_csv(summary),
            "summary.txt": f"{text.terminal(summary)}\n\nreport: {folder}/report.html\n",
            "report.html": page(summary, asked),
            "results.md": text.markdown(summary, names, said.in_markdown(asked)),
        }
        tables.write_table(draft / "scores.parquet", gathering.all_scores(params))
        for name, content in written.items():
            (draft / name).write_text(content, "utf-8", newline="\n")
    print(f"report: {folder}/report.html")


if __name__ == "__main__":
    main(__doc__, report, None)
