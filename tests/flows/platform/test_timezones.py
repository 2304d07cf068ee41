"""Timezones of prefect.yaml are checked by their key and line."""

import pytest

from flows.platform.setup import check_timezones
from stages.runtime.faults import ConfigFault
from tests.support.workspace import PROJECT


def test_a_timezone_that_does_not_exist_is_named_with_its_line(tmp_path):
    check_timezones(PROJECT / "prefect.yaml")
    path = tmp_path / "prefect.yaml"
    text = (PROJECT / "prefect.yaml").read_text("utf-8")
    path.write_text(text.replace("timezone: UTC", "timezone: Europe/Pariss"))
    line = 1 + next(i for i, line in enumerate(text.splitlines()) if "timezone" in line)
    with pytest.raises(ConfigFault, match=rf"prefect\.yaml:{line}: timezone: 'Europe/Pariss' .* 'Europe/Paris'\?"):
        check_timezones(path)
