from pathlib import Path

import pytest

from stages.core.params import Params, PlugIn, Score
from stages.files import model_lock
from stages.reporting.page import background
from stages.tools import profiles

LOCK = model_lock.read_lock()


def test_every_model_of_the_lock_has_a_licence_and_a_source():
    assert all(model.licence and model.repo for model in LOCK.values())


def test_every_profile_pins_the_weights_that_the_lock_pins():
    trees = [(name, profiles.tree(name)) for name in profiles.names()]
    downloaded = [(name, tree["base"]["options"]) for name, tree in trees if model_lock.models_used(tree, LOCK)]
    assert len(downloaded) > 10
    for name, options in downloaded:
        pinned = [pair for pair in (("path", "revision"), ("vae", "vae_revision")) if pair[0] in options]
        for folder, revision in pinned:
            model = LOCK[Path(options[folder]).relative_to(model_lock.FOLDER).as_posix()]
            assert options[revision] == model_lock.content_digest(model.files), name


def test_stable_diffusion_1_5_needs_no_autoencoder_but_its_own():
    needed = model_lock.models_used(profiles.tree("sd15-quick"), LOCK)
    assert needed[0] == "sd-1.5"
    assert len(needed) == 4


def test_the_papers_study_needs_its_base_its_autoencoder_and_its_three_judges():
    assert len(model_lock.models_used(profiles.tree("sdxl-objects"), LOCK)) == 5
    assert model_lock.models_used(profiles.tree("toy-objects"), LOCK) == []


@pytest.mark.parametrize("name", profiles.names())
def test_every_model_that_a_profile_uses_has_a_licence_in_the_report(name):
    tree = profiles.tree(name)
    params = Params.model_construct(base=PlugIn(**tree["base"]), score=Score(**tree["score"]))
    rows = list(background._models(params))
    assert {role for row in rows for role in row[0].split(", ")} >= {"base model", "judge dino", "judge clip t"}
    assert {row[3] for row in rows} <= {model_lock.OWN_LICENCE, *(model.licence for model in LOCK.values())}
