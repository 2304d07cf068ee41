"""The coordinator with a server that is only a stand-in."""

from types import SimpleNamespace

import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows.platform import coordinator
from flows.platform.coordinator import Coordinator

RUN = "objects/0/naive/0"


class Client:
    """A server on which the first `deleted` of the runs have been deleted, and the others have ended."""

    def __init__(self, deleted: int = 0) -> None:
        self.deleted = deleted

    def read_flow_runs(self, **_):
        return []

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
    assert Coordinator(Client(deleted), {}).run([RUN]) == failed
    assert len(submitted) == 3
    assert f"{RUN}: The flow run was deleted on the server. It is submitted again." in capsys.readouterr().out
