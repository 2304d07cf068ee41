"""What `status` and `concept` read of params.yaml has the right types, or the error names its line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.commands.status import read_status
from stages.files.yaml import read_yaml
from stages.runtime.faults import ConfigFault
from stages.tools import edit_params, profiles
from stages.tools.outline import Outline, checked

PARAMS = Path("params.yaml").read_text("utf-8")
OTHER = [
    "3",
    "abc",
    "{}",
    "[]",
    "[[a]]",
    "[null]",
    "{a: {b: c}}",
    "[../x]",
    "['']",
    "null",
    "true",
    "[1.5]",
    "[{a: b}]",
]


@settings(max_examples=80)
@given(st.sampled_from(sorted(Outline.model_fields)), st.sampled_from(OTHER))
def test_another_type_is_refused_by_its_line(tmp_path_factory, key, value):
    folder = tmp_path_factory.getbasetemp()
    lines = PARAMS.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
    end = next((n for n in range(start + 1, len(lines)) if lines[n][:1] not in ("", " ", "-", "#")), len(lines))
    path = folder / "outline.yaml"
    path.write_text("\n".join([*lines[:start], f"{key}: {value}", *lines[end:], ""]))
    try:
        tree = edit_params.tree(path)
    except ConfigFault as fault:
        place = str(fault).removeprefix(str(path))
        assert place.startswith((f":{start + 1}: {key}", f":{start + 1}: unknown key '{key}.", f": '{key}' is missing"))
        return
    assert (key, value) in (("study", "abc"), ("sequences", "{a: {b: c}}")) or tree == checked(read_yaml(path))


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_has_an_outline(name, tmp_path):
    (tmp_path / "params.yaml").write_text(profiles.text(name))
    assert edit_params.tree(tmp_path / "params.yaml")["study"]


@pytest.mark.parametrize("text", ["domains: objects", "domains: ['ob\\0jects']", f"domains: [{'x' * 300}]"])
def test_status_does_not_go_on_with_it(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS.replace("domains: [objects]", text.replace("\\\\", "\\")))
    with pytest.raises(ConfigFault, match=r"^params\.yaml:"):
        read_status()
