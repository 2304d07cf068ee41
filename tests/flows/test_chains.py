import subprocess
from pathlib import Path

from flows.chains import VERBS, chains
from stages.core.params import load
from tests.workspace import environment


def test_the_chains_are_the_stages_that_dvc_has():
    listed = subprocess.run(
        ["dvc", "stage", "list", "--name-only"], env=environment(), capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = {name for name in listed if name.split("@")[0] in VERBS}
    found = [name for chain in chains(load()) for name in chain]
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_a_chain_goes_from_task_to_task_and_within_it_from_verb_to_verb():
    for chain in chains(load()):
        assert len({name.split("@")[1].rsplit("-", 1)[0] for name in chain}) == 1
        assert [name.split("@")[0] for name in chain[: len(VERBS)]] == list(VERBS)
        assert [int(name.rsplit("task", 1)[1]) for name in chain] == sorted(int(n.rsplit("task", 1)[1]) for n in chain)


def test_the_makefile_runs_them():
    assert "python -m flows.chains | xargs" in Path("Makefile").read_text("utf-8")
