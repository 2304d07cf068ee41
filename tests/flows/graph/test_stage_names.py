"""Stage names are parsed, printed and shown in words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.graph.stage_names import StageName, titles

WORDS = st.from_regex(r"[a-z0-9][a-z0-9_]{0,10}", fullmatch=True)  # names that params.yaml allows
SEEDS, TASKS = st.integers(-9, 10**9).map(str), st.integers(0, 99)
NAMES = st.one_of(
    st.builds(StageName, WORDS),
    st.builds(StageName, WORDS, WORDS, WORDS),
    st.builds(StageName, WORDS, WORDS, WORDS, task=TASKS),
    st.builds(StageName, WORDS, WORDS, WORDS, WORDS, SEEDS),
    st.builds(StageName, WORDS, WORDS, WORDS, WORDS, SEEDS, TASKS),
)


@given(NAMES)
def test_a_printed_name_is_parsed_back(name):
    assert StageName.parse(str(name)) == name


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_titles_are_unique(names):
    printed = list(map(str, names))
    assert len({StageName.parse(name).title for name in printed}) == len(printed)
    within = [str(name) for name in names if name.domain]
    assert len(set(titles(within).values())) == len(within)


@given(NAMES)
def test_the_kind_depends_on_verb_and_task_only(name):
    assert name.kind == StageName(name.verb, "other", "other", task=name.task).kind
    assert name.kind.startswith(name.verb)


@pytest.mark.parametrize("name", ["", "train@", "train@objects", "train@objects-0-naive", "train@objects-0-naive-0-x1"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is not the name of a stage"):
        StageName.parse(name)


def test_the_matrices_in_dvc_yaml_have_the_keys_of_a_name_in_its_order():
    from ruamel.yaml import YAML

    for stage in YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values():
        keys = list(stage.get("matrix", {}))
        assert keys == [key for key in ("domain", "order", "strategy", "seed", "task") if key in keys]
