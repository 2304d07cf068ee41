"""A variant: a strategy under a name of its own, with other options and another training."""

import json
import shutil
from argparse import Namespace

import pytest

from stages.core import params
from stages.core.runs import provenance, runs
from stages.core.states import initial_state, rebuilt_state, state_after
from stages.files import artifact
from stages.merge import merge
from stages.prepare import prepare
from stages.runtime.faults import ConfigFault
from stages.start import start
from stages.tools.forecasting.workload import count
from stages.train import train
from tests.support.states import state_fingerprint
from tests.support.workspace import change, dvc, ran, workspace

pytestmark = pytest.mark.takes(45)

VARIANTS = {
    "magmax": {"threshold": 1.0},
    "magmax_t2": {"is": "magmax", "threshold": 2.0},
    "sum_slow": {"is": "merge_init", "train": {"rank": 4, "alpha": 4, "steps": 3, "learning_rate": 1e-4}},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = workspace(
        tmp_path_factory.mktemp("variants") / "work", strategies=["merge_init", *VARIANTS], strategy=VARIANTS
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        loaded = params.load()
        for index in ("01", "02"):
            prepare(loaded, runs(loaded)[0].sequence, Namespace(task=index))
        for run in runs(loaded):
            start(loaded, run, Namespace())
            for index in ("01", "02"):
                train(loaded, run, Namespace(task=index))
                merge(loaded, run, Namespace(task=index))
        yield loaded


def test_it_is_the_strategy_that_it_names_with_its_own_options(study):
    assert (study.make_strategy("magmax").threshold, study.make_strategy("magmax_t2").threshold) == (1.0, 2.0)
    assert type(study.make_strategy("magmax_t2")) is type(study.make_strategy("magmax"))
    by_name = {run.strategy: provenance(study, run)["strategy"] for run in runs(study)}
    assert by_name["magmax_t2"]["is"] == "magmax"
    assert "is" not in by_name["magmax"]


def test_it_trains_as_it_says_and_nothing_else_does(study):
    shapes = {}
    for run in runs(study):
        facts = artifact.read(run.at("02") / "adapter", "adapter")
        shapes[run.strategy] = (facts["train"]["rank"], facts["train"]["steps"], facts["train"]["learning_rate"])
    assert shapes["sum_slow"] == (4, 3, 1e-4)
    usual = (study.train.rank, study.train.steps, study.train.learning_rate)
    assert {shapes[name] for name in ("merge_init", "magmax", "magmax_t2")} == {usual}


def test_its_states_come_back_from_its_adapters(study):
    for run in runs(study):
        again, stored = rebuilt_state(study, run, "02"), state_after(study, run, "02")
        assert state_fingerprint(again) == state_fingerprint(stored)
    run = runs(study)[-1]
    assert {len(a) for term in state_after(study, run, "02").delta.terms for a in term.a.values()} == {4}
    assert not initial_state(study, run).delta.modules


def test_the_graph_depends_on_the_file_of_the_strategy_it_names(study):
    told = {run.strategy: json.loads((run.at("00") / "strategy.json").read_text()) for run in runs(study)}
    assert told["magmax_t2"] == told["magmax"]
    assert told["magmax"] != told["merge_init"] == told["sum_slow"]
    assert told["sum_slow"]["strategy"] == "merge_init"


def test_the_forecast_counts_its_training(study):
    work = count(study)
    assert work.steps == 6 * (1 + 3) + 3 * 2  # the first task is shared by those that are trained alike
    assert work.trained == 4 + 2


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"is": "magmix"}, "no strategy is called 'magmix'"),
        ({"is": "magmax", "treshold": 2.0}, "unknown key 'treshold'"),
        ({"is": "magmax", "train": {"ranks": 2}}, r"strategy.other.train: unknown key 'ranks'"),
        ({"is": "magmax", "train": {"rank": 0}}, "strategy.other.train: rank"),
        ({"is": "magmax", "train": {"rank": 4096}}, "strategy.other.train.rank: 4096 is more than"),
        ({"is": "magmax", "train": 3}, "strategy.other.train: must be keys of section train"),
        ({}, "no strategy is called 'other'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(study, tmp_path, entry, said):
    folder = workspace(tmp_path / "work", strategies=["other"], strategy={"other": entry})
    with pytest.raises(ConfigFault, match=said):
        params.load(folder / "params.yaml")


def test_a_name_that_would_break_the_names_of_stages_is_refused(study, tmp_path):
    folder = workspace(tmp_path / "work", strategies=["mag-max"], strategy={"mag-max": {"is": "magmax"}})
    with pytest.raises(ConfigFault, match="mag-max"):
        params.load(folder / "params.yaml")


@pytest.mark.slow
def test_a_new_variant_reruns_nothing_of_the_others(graph_done, tmp_path):
    folder = shutil.copytree(graph_done[0], tmp_path / "work")

    def changed() -> set[str]:
        """The verbs of merge_init's own stages that would run."""
        stages = json.loads(dvc(folder, "status", "--json"))
        return {stage.split("@")[0] for stage in stages if "-merge_init-" in stage}

    change(folder, strategies=["merge_init", "slow"], strategy={"slow": {"is": "merge_init", "train": {"steps": 1}}})
    assert ran(dvc(folder, "repro", "start")) == {"start@objects-0-slow-0"}
    assert changed() == set()
    change(folder, strategies=["merge_init"])
    for name, reruns in (("magmax", set()), ("merge_init", {"train", "merge"})):
        (folder / f"stages/strategies/{name}.py").open("a").write("# another line\n")
        assert ran(dvc(folder, "repro", "start")) == {"start@objects-0-merge_init-0"}
        assert changed() == reruns
