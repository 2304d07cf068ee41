"""A cache file is returned as it was written or not at all."""

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.files import sealed, writing
from stages.files.sealed import move_away, read_sealed, write_sealed


@pytest.fixture(autouse=True)
def damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "DAMAGED", tmp_path / "damaged")
    return tmp_path / "damaged"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.data())
def test_no_change_of_any_byte_goes_unnoticed(tmp_path, content, data):
    path = tmp_path / "entry"
    write_sealed(path, content)
    assert read_sealed(path) == content
    whole = bytearray(path.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "add"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if how == "flip":
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    changed = {"flip": bytes(whole), "cut": bytes(whole[:at]), "add": bytes(whole) + b"\0"}[how]
    path.write_bytes(changed)
    assert read_sealed(path) is None
    assert not path.exists()


def test_a_damaged_file_can_still_be_looked_at(tmp_path, damaged, caplog):
    path = tmp_path / "entry"
    write_sealed(path, b"content")
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert read_sealed(path) is None
    (place,) = damaged.iterdir()
    assert place.read_bytes().endswith(b"conten")
    assert str(place) in caplog.text
    assert read_sealed(path) is None  # missing: that is no damage
    assert len(caplog.records) == 1


def test_a_file_copied_to_another_name_does_not_pass_for_that_one(tmp_path):
    write_sealed(tmp_path / "one", b"content")
    (tmp_path / "two").write_bytes((tmp_path / "one").read_bytes())
    assert read_sealed(tmp_path / "two") is None
    assert read_sealed(tmp_path / "one") == b"content"


def test_folders_of_the_same_name_are_moved_to_different_places(tmp_path):
    for text in "ab":
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "file").write_text(text)
        assert (move_away(tmp_path / "x") / "file").read_text() == text
    assert not (tmp_path / "x").exists()


def test_only_what_is_to_be_durable_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writing, "sync", synced.append)
    write_sealed(tmp_path / "entry", b"cache")
    assert synced == []
    write_sealed(tmp_path / "entry", b"copy", durable=True)
    assert synced[-1] == tmp_path
