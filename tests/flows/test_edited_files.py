"""Files of ours that somebody edited end in one line that names them, or count as missing; never in a traceback."""

import json
from pathlib import Path

import pytest

from flows.commands import show_report, status
from flows.commands.concept_scores import concept_scores, titles
from flows.engine import journal
from stages.runtime.faults import InputFault
from stages.tools import profiles

STUDY = Path("report/toy-objects")
HEAD = "domain,strategy,concept,metric,after,task,score\n"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    text = profiles.text("toy-objects")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text)
    STUDY.mkdir(parents=True)
    for name, content in (("metrics.json", "{}"), ("headline.json", "{}"), ("conclusion.json", '{"warning": ""}')):
        (STUDY / name).write_text(content)


@pytest.mark.parametrize("content", ['{"a": NaN}', "[", "", "[" * 10_000, '{"a": 1, "a": 2}'], ids=range(5))
def test_metrics(content):
    (STUDY / "metrics.json").write_text(content)
    with pytest.raises(InputFault, match=r"metrics\.json"):
        show_report.show(True, False)


@pytest.mark.parametrize(
    "content", ["[]", '{"objects": 3}', '{"objects": {"naive": {}}}', '{"objects": {"naive": {"average_score": "x"}}}']
)
def test_headline(content):
    (STUDY / "headline.json").write_text(content)
    with pytest.raises(InputFault, match="report/toy-objects: is not as it was written"):
        show_report.show(False, False)


@pytest.mark.parametrize("content", ["[]", "{}", '{"warning": "", "objects": 3}', '{"warning": 3}'])
def test_conclusion(content):
    (STUDY / "conclusion.json").write_text(content)
    with pytest.raises(InputFault, match="report/toy-objects: is not as it was written"):
        show_report.show(False, False)


def test_a_conclusion_cannot_talk_to_the_terminal(capsys):
    (STUDY / "conclusion.json").write_text('{"warning": "\\u001b]0;title\\u0007 text"}')
    show_report.show(False, False)
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "text" in output


@pytest.mark.parametrize(
    "content",
    [
        b"other\n1\n",
        HEAD.encode() + b"objects,naive,mug,dino,one,1,0.5\n",
        HEAD.encode() + b"objects,naive,mug,dino,1,1,high\n",
        HEAD.encode() + b"objects,naive,mug,dino,1\n",
        HEAD.encode() + b"objects,naive,mug,dino,1,1,\0\n",
        HEAD.encode() + b"\xff\n",
    ],
    ids=range(6),
)
def test_matrix(content):
    (STUDY / "matrix.csv").write_bytes(content)
    with pytest.raises(InputFault, match=r"matrix\.csv: is not as it was written"):
        concept_scores("toy-objects", "dino")


def test_regimes():
    (STUDY / "metrics.json").write_text('{"regimes": 3}')
    with pytest.raises(InputFault, match=r"metrics\.json: is not as it was written"):
        titles("toy-objects", ["naive"])


@pytest.mark.parametrize(
    "facts",
    [{"failures": 3}, {"began": []}, {"done": "x"}, {"code": "0"}, {"failures": [{"stage": 1}]}],
    ids=str,
)
def test_a_journal_of_another_form_counts_as_none(facts):
    journal.JOURNAL.parent.mkdir(parents=True)
    journal.JOURNAL.write_text(json.dumps(facts))
    assert journal.read() is None
    status.show(status.read_status())


def test_a_failure_in_the_journal_cannot_talk_to_the_terminal(capsys):
    journal.JOURNAL.parent.mkdir(parents=True)
    journal.JOURNAL.write_text(json.dumps({"code": 4, "failures": [{"stage": "train", "what": "\x1b[2J"}]}))
    status.show(status.read_status())
    assert "train: \\x1b[2J" in capsys.readouterr().out
