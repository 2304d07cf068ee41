"""The facts of a run that the report links to."""

import pytest

from flows.engine.journal import web_address


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://host.org/me/it.git", "https://host.org/me/it"),
        ("https://me:secret@host.org/me/it", "https://host.org/me/it"),
        ("git@host.org:me/it.git", "https://host.org/me/it"),
        ("ssh://git@host.org/group/me/it.git", "https://host.org/group/me/it"),
        *((remote, "") for remote in ("", "/srv/it.git", "file:///srv/it.git", "javascript:alert(1)", "../it")),
    ],
)
def test_a_remote_s_page_on_the_web_has_no_password(remote, address):
    assert web_address(remote) == address
