"""The coordinator with a server that is only a stand-in."""

from types import SimpleNamespace

import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows.platform import coordinator
from flows.platform.coordinator import Coordinator
from stages.runtime.faults import ConfigFault

RUN = "objects/0/naive/0"


class Client:
    """A server on which the first `deleted` of the runs have been deleted, and the others have ended."""

    def __init__(self, deleted: int = 0, before: int = 0) -> None:
        self.deleted, self.before = deleted, before

    def read_flow_runs(self, flow_run_filter, offset):
        found = [SimpleNamespace(id=9, parameters={"run": f"objects/0/naive/{i}"}) for i in range(self.before)]
        return found[offset : offset + 200]

    def read_flow_run(self, number: int):
        if number <= self.deleted:
            raise ObjectNotFound(ValueError("404"))
        return SimpleNamespace(state=Completed())


@pytest.fixture
def submitted(monkeypatch):
    """The parameters of the runs that are submitted, whose ids are 1, 2, ..."""
    made = []

    def run_deployment(name, parameters, **_):
        made.append(parameters)
        return SimpleNamespace(id=len(made))

    monkeypatch.setattr("prefect.deployments.run_deployment", run_deployment)
    monkeypatch.setattr(coordinator, "EVERY_SECONDS", 0.0)
    return made


@pytest.mark.parametrize(
    ("deleted", "failed"), [(2, {}), (3, {RUN: "Crashed: The flow run was deleted on the server."})]
)
def test_a_run_that_is_deleted_on_the_server_counts_as_crashed(submitted, capsys, deleted, failed):
    assert Coordinator(Client(deleted), {}, None, None).run([RUN]) == failed
    assert len(submitted) == 3
    assert f"{RUN}: The flow run was deleted on the server. It is submitted again." in capsys.readouterr().out


def test_jobs_and_devices_go_to_the_machine_that_a_run_comes_to(submitted):
    Coordinator(Client(), {}, 2, "0,1").run([RUN])
    assert submitted == [{"run": RUN, "inputs": {}, "jobs": 2, "devices": "0,1"}]


@pytest.mark.parametrize(("option", "value"), [("share", True), ("together", 3), ("jobs", -1)])
def test_an_option_that_runs_cannot_be_given_is_refused_by_name(option, value):
    options = {"jobs": None, "devices": None, "together": None, "share": False} | {option: value}
    with pytest.raises(ConfigFault, match=rf"^--{option}"):
        coordinator.complete(SimpleNamespace(**options))


def test_all_runs_that_were_submitted_before_are_found(submitted):
    keys = [f"objects/0/naive/{i}" for i in range(450)]
    assert Coordinator(Client(before=450), {}, None, None).run(keys) == {}
    assert submitted == []
