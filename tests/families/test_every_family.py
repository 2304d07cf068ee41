"""Every registered family has the properties that training, sampling and export rely on; a new one is covered too."""

import pytest

from stages.core.family import families
from tests.support.family_properties import PROPERTIES, offline


@pytest.fixture(scope="module", params=sorted(families.classes))
def family(request, tmp_path_factory):
    return offline(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
def test_every_family_has_this_property(family, tmp_path, holds):
    holds(family, tmp_path)
