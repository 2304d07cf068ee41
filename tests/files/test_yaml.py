"""Hostile YAML ends in one line with its place, before anything is built from it."""

import os
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.files.yaml import MAX_BYTES, read_yaml
from stages.runtime.faults import ConfigFault


def refusal(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigFault) as caught:
        read_yaml(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    return text.removeprefix(f"{path}:")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: \x07\n", r"2: control character U\+0007"),
        ('a: 1\nb: "\\e[31mred"\n', r"2: control character U\+001B"),
        ('a: 1\n"\\0": 2\n', r"2: control character U\+0000"),
        ('a: "\\uD800"\n', "control character U|cannot be read|1: "),
        ("a: {b: 1}\n<<: {b: 2}\n", "2: merge keys"),
        ("a:\n  <<: {b: 2}\n", "2: merge keys"),
        ("%YAML 1.1\n---\nseed: 012\n", "directives such as %YAML"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", "directives such as %YAML"),
        (f"a: 1\nb: {'9' * 5000}\n", "2: a number of 5000 digits"),
        (f"a: -{'1_' * 3000}1\n", "1: a number of 6002 digits"),
        (f"a: 0x{'f' * 5000}\n", "1: a number with more than 63 bits"),
        ("a: 1e999\n", "1: inf is not a finite number"),
        ("a: .nan\n", "1: nan is not a finite number"),
        ("a: 1\nb: 2026-99-99\n", "2: 2026-99-99 cannot be read: month must be in 1..12. Put it in quotes"),
        ("a: 1\nb: -_\n", "2: -_ cannot be read: neither a number nor text. Put it in quotes"),
        ("a: 1\nb:\n- x\n- {c: +__}\n", "4: \\+__ cannot be read"),
        ("a: 1\n0x_: 2\n", "2: 0x_ cannot be read: neither"),
        ("a: 1\n\nb: ._\n", "3: ._ cannot be read: neither"),
        ("a: " + "[" * 30_000, "1: more than 20 nested levels"),
        ("".join(f"{'  ' * i}a:\n" for i in range(700)), "more than 20 nested levels"),
        ("{" * 30_000, "nested levels|expected"),
        ("a: [" + "0," * 110_000 + "]", "1: more than 100000 values"),
        ("a: 1\n---\nb: 2\n", "2: but found another document"),
        (b"a: \xff\n", "not UTF-8 at byte 3"),
        ("", "the file is empty"),
        ("- a\n", "expected sections"),
        ("? [a, b]\n: 1\n", "is not a string"),
    ],
    ids=range(27),
)
def test_one_line_with_the_place_and_the_reason(tmp_path, content, expected):
    began = time.process_time()
    assert re.search(expected, refusal(tmp_path, content))
    assert time.process_time() - began < 60  # quadratic time would be hours


def test_a_file_is_not_read_before_its_size_and_kind_are_known(tmp_path):
    path = tmp_path / "params.yaml"
    path.touch()
    os.truncate(path, 20 << 30)  # sparse
    with pytest.raises(ConfigFault, match=r"20480\.0 MB, over 1 MB"):
        read_yaml(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigFault, match="not a regular file"):
        read_yaml(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigFault, match="not a regular file"):
        read_yaml(path)
    assert MAX_BYTES == 1 << 20


TEXTS = st.text(st.sampled_from("ab:-[]{}'\"\n #&*!|>%@`,?0123456789_.xoeE~+<="), max_size=40)


@settings(max_examples=150)
@given(TEXTS)
def test_whatever_is_read_is_what_dvc_reads(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(f"a: {text}\n")
    try:
        tree = read_yaml(path).tree
    except ConfigFault:
        return
    assert tree == YAML(typ="safe").load(path.read_text())  # as dvc.utils.serialize.parse_yaml
