"""Adding a task to params.yaml changes nothing else."""

import difflib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.runtime.faults import ConfigFault
from stages.tools import profiles
from stages.tools.edit_params import with_task

BLOCK = """\
# my study
tasks:   # append only
- index: '01'
  previous: '00'
  sees: data   # all
# the order
sequences:
    objects:
        '0':
            t01: mug   # the first
        "1": {t01: mug}

    styles:
        '0': {t01: ink}
"""
FLOW = "tasks: [{index: '01', previous: '00', sees: data/01}]\nsequences: {objects: {'0': {t01: mug}}}"


def read(text):
    return YAML(typ="safe").load(text)


@pytest.mark.parametrize("name", profiles.names())
def test_a_profile_gains_one_line_per_list_and_no_other_change(name):
    text = profiles.text(name)
    domains = read(text)["domains"]
    orders = sum(len(read(text)["sequences"][domain]) for domain in domains)
    new = with_task(text, dict.fromkeys(domains, "my_mug"))
    changes = [line for line in difflib.ndiff(text.splitlines(), new.splitlines()) if line[0] in "+-"]
    assert len(changes) == 1 + orders
    assert all(line.startswith("+ ") for line in changes)
    number, last = len(read(text)["tasks"]) + 1, read(text)["tasks"][-1]
    assert read(new)["tasks"][-1] == {
        "index": f"{number:02d}",
        "previous": f"{number - 1:02d}",
        "sees": "data" if last["sees"] == "data" else f"data/{number:02d}",
    }
    sequences = [listed for domain in domains for listed in read(new)["sequences"][domain].values()]
    assert all(listed[f"t{number:02d}"] == "my_mug" for listed in sequences)


def test_comments_indentation_and_other_domains_are_unchanged():
    new = with_task(BLOCK, {"objects": "cup"})
    assert new == BLOCK.replace("  # all\n", "  # all\n- {index: '02', previous: '01', sees: data}\n").replace(
        "# the first\n", "# the first\n            t02: cup\n"
    ).replace('"1": {t01: mug}', '"1": {t01: mug, t02: cup}')


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.from_regex(r"[a-z0-9][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "mug"),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    st.sampled_from([BLOCK, FLOW, FLOW + "\n", BLOCK.replace("\n", "\r\n")]),
)
def test_any_number_of_concepts_can_be_added_in_any_yaml_style(names, text):
    new = text
    for name in names:
        new = with_task(new, {"objects": name})
    listed = read(new)["sequences"]["objects"]["0"]
    assert [listed[f"t{number + 2:02d}"] for number in range(len(names))] == names
    assert [task["index"] for task in read(new)["tasks"]] == [f"{n + 1:02d}" for n in range(len(names) + 1)]
    assert ("\r\n" in new) == ("\r\n" in text)
    assert "\n" not in new.replace("\r\n", "") or "\r\n" not in text


def test_a_file_without_room_for_another_task_is_refused():
    with pytest.raises(ConfigFault, match="must end with t01, as tasks does"):
        with_task(BLOCK.replace("t01: mug}", "t01: mug, t02: cup}"), {"objects": "pen"})
    with pytest.raises(ConfigFault, match="99 already"):
        with_task(BLOCK.replace("'01'", "'99'"), {"objects": "pen"})
