"""A user's folder is copied without following links, and JSON is read without trusting it."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.files import untrusted
from stages.files.strict_json import as_written, parse_json, read_json
from stages.files.untrusted import copy_folder
from stages.runtime.faults import InputFault


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "secret.txt").write_text("my other file")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "letter.txt").write_text("my letter")
    folder = tmp_path / "mug"
    (folder / "references").mkdir(parents=True)
    (folder / "01.jpg").write_bytes(b"picture")
    (folder / "references" / "02.jpg").symlink_to("../01.jpg")
    return folder


def test_links_within_the_folder_become_files(photos, tmp_path):
    copy_folder(photos, tmp_path / "copy")
    copied = tmp_path / "copy/references/02.jpg"
    assert not copied.is_symlink()
    assert copied.read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("name", "to", "reason"),
    [
        ("01.txt", "../secret.txt", "a link out of mug"),
        ("all", "../private", "a link to a folder"),
        ("again", ".", "a link to a folder"),
        ("up", "..", "a link to a folder"),
        ("self", "self", "a link to nothing, or to itself"),
        ("gone", "nowhere", "a link to nothing, or to itself"),
        ("null", "/dev/zero", "a link out of mug"),
    ],
)
def test_other_links_are_refused_by_name(photos, tmp_path, name, to, reason):
    (photos / name).symlink_to(to)
    with pytest.raises(InputFault, match=rf"{name}: {reason}\. Replace it with a copy"):
        copy_folder(photos, tmp_path / "copy")
    assert not list((tmp_path / "copy").rglob("*.txt"))


def test_pipes_depth_and_number_have_limits(photos, tmp_path, monkeypatch):
    os.mkfifo(photos / "pipe.jpg")
    with pytest.raises(InputFault, match=r"pipe\.jpg: not a regular file"):
        copy_folder(photos, tmp_path / "one")
    (photos / "pipe.jpg").unlink()
    photos.joinpath(*"abcdefghij").mkdir(parents=True)
    with pytest.raises(InputFault, match="more than 8 folders deep"):
        copy_folder(photos, tmp_path / "two")
    monkeypatch.setattr(untrusted, "MOST_FILES", 1)
    with pytest.raises(InputFault, match="more than 1 files"):
        copy_folder(photos, tmp_path / "three")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not"),
        ('{"a": 1e999}', "1e999 is not"),
        ('{"a": 1, "a": 2}', "the name 'a' occurs twice"),
        ("{" + "".join(f'"{name}": 1, ' for name in range(100_000)) + '"99999": 2}', "the name '99999' occurs twice"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ("[" * 100_000, "too many nested levels"),
        ('{"a": 1', "Expecting"),
        ("", "the file is empty"),
        ("\udcff", "not JSON|invalid"),
    ],
    ids=range(10),
)
def test_what_json_does_not_allow_is_refused(tmp_path, text, reason):
    (tmp_path / "facts.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputFault, match=rf"facts\.json: .*({reason})"):
        read_json(tmp_path / "facts.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_what_json_allows_is_read(value):
    assert parse_json(json.dumps(value)) == value


def test_an_edited_file_is_named(tmp_path):
    expected = r"facts: is not as it was written \(KeyError: 'score'\)\. Make it again"
    with pytest.raises(InputFault, match=expected), as_written(tmp_path / "facts", "Make it again."):
        {}["score"]
