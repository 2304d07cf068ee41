"""dvc.lock has DVC's format and is never truncated."""

import copy

import pytest
from dvc.utils.serialize import dumps_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.graph.lockfile import COPY, HEAD, LOCKFILE, repair, update
from stages.files.sealed import read_sealed

LONG = "b5343588ab5cc26bafcb919f8e0b48df2b2731ee48d2a73abe585594477a63b7"
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=90)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {
        "cmd": words.filter(bool),
        "params": st.fixed_dictionaries({"params.yaml": st.dictionaries(words, values, min_size=1, max_size=3)}),
        "outs": st.lists(
            st.fixed_dictionaries({"path": words, "hash": st.just("md5"), "md5": st.just(LONG)}), min_size=1
        ),
    }
)
names = st.from_regex(r"[a-z][a-z_]{0,9}(@[a-z0-9_]{1,9}(-[a-z0-9_]{1,9}){0,4})?", fullmatch=True).filter(
    lambda name: name not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, entries, min_size=1, max_size=3), st.dictionaries(names, entries, min_size=1, max_size=3))
def test_it_writes_the_same_text_as_dvc(tmp_path_factory, first, then):
    root = tmp_path_factory.mktemp("lock")
    for some in (first, then):
        assert update(root, copy.deepcopy(some))
    assert (root / LOCKFILE).read_text("utf-8") == dumps_yaml({"schema": "2.0", "stages": {**first, **then}})
    assert read_sealed(root / COPY) == (root / LOCKFILE).read_bytes()


def test_a_name_that_yaml_breaks_into_lines_is_not_written(tmp_path):
    assert not update(tmp_path, {"train@" + "x" * 130: {"cmd": "y"}})
    assert not (tmp_path / LOCKFILE).exists()


@pytest.mark.parametrize(
    "text", ["", "stages: {}\n", HEAD + "  a: {cmd: x}", HEAD.replace("'2.0'", "'3.0'") + "  a:\n"]
)
def test_a_file_in_another_format_is_not_changed(tmp_path, text):
    (tmp_path / LOCKFILE).write_text(text)
    assert not update(tmp_path, {"a": {"cmd": "y"}})
    assert (tmp_path / LOCKFILE).read_text() == text


@pytest.mark.parametrize("truncated", ["", "schema: '2.0'\nstages:\n  a:\n    cm"])
def test_a_truncated_file_is_restored_from_its_copy(tmp_path, truncated):
    entry = {"cmd": "python -m a", "outs": [{"path": "a", "hash": "md5", "md5": LONG}]}
    update(tmp_path, {"a": entry, "b": entry})
    whole = (tmp_path / LOCKFILE).read_text()
    (tmp_path / LOCKFILE).write_text(truncated)
    repair(tmp_path)
    assert (tmp_path / LOCKFILE).read_text() == whole
