"""Every registered family has what training, sampling and export rely on. A new one is covered without a line here."""

import pytest

from stages.core.family import families
from tests.support.family_properties import PROPERTIES, offline


@pytest.fixture(scope="module", params=sorted(families.classes))
def family(request, tmp_path_factory):
    return offline(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
def test_what_every_family_must_satisfy(family, tmp_path, holds):
    holds(family, tmp_path)
