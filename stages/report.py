"""Reports a study's results. Reads all its scores, pictures, losses and merge checks; writes report/<study>."""

import argparse
from pathlib import Path

from stages.core.command import main
from stages.core.params import Params
from stages.evaluation import preference, score_table
from stages.evaluation.statistics import summarise
from stages.files import artifact, tables
from stages.reporting import contact_sheets, data_files, regimes, wording
from stages.reporting.aligned import wording as aligned
from stages.reporting.page.render import page
from stages.reporting.survey_wording import survey_table
from stages.reporting.sweeps.figures import drawn_meanwhile

ROOT = Path("report")


def report(params: Params, key: None, args: argparse.Namespace) -> None:
    """Publishes the page, figures, tables and data files of the study, and prints where the page is.

    Raises:
        InputFault: scores or pictures are missing or damaged.
    """
    summary, answers = summarise(params), preference.people(params.study, params.report.confidence)
    folder = ROOT / params.study
    with artifact.publish(folder, "report", {"study": params.study}) as draft:
        for name in ("figures", "grids"):
            (draft / name).mkdir()
        with drawn_meanwhile(params, summary.verdicts, draft / "figures") as figures:
            sheets, text = contact_sheets.draw_all(params, draft / "grids"), page(summary, answers)
            names = [path.relative_to(draft.path).as_posix() for path in (*figures(), *sheets)]
        written = {
            "metrics.json": artifact.to_json(data_files.metrics(summary, answers)),
            "settings.json": artifact.to_json(data_files.settings(params)),
            "conclusion.json": artifact.to_json(data_files.conclusion(summary)),
            "headline.json": artifact.to_json(data_files.headline(summary)),
            "matrix.csv": data_files.matrix_csv(summary),
            "curve.csv": data_files.curve_csv(summary),
            "differences.csv": data_files.differences_csv(summary),
            "checks.csv": data_files.checks_csv(summary),
            "summary.txt": f"{wording.terminal(summary)}\n\nreport: {folder}/report.html\n",
            "report.html": text,
            "results.md": wording.markdown(
                summary, names, [*aligned.markdown(summary), *survey_table(answers, regimes.of(params))]
            ),
        }
        tables.write_table(draft / "scores.parquet", score_table.all_scores(params))
        for name, content in written.items():
            (draft / name).write_text(content, "utf-8", newline="\n")
    print(f"report: {folder}/report.html")


if __name__ == "__main__":
    main(__doc__, report, None)
