import numpy as np
import pytest

from data.world.concepts import SHOWN_IN
from data.world.scenes import HELD_OUT
from stages.core.dataset import datasets
from stages.runtime.faults import ConfigFault

ASKED = {"beach", "forest", "city", "snow", "meadow"}


def concepts(domain, **options):
    toy = datasets.make("toy", options)
    return [toy.concept(domain, name) for name in toy.domains()[domain]]


def scenes(pictures):
    return [picture.origin.args[0] for picture in pictures]


def pixels(pictures) -> list[bytes]:
    return [picture.origin().tobytes() for picture in pictures]


@pytest.mark.parametrize("domain", ["objects", "alike", "unlike"])
def test_an_object_is_a_design_that_the_base_never_saw(domain):
    for concept in concepts(domain):
        shown, compared = scenes(concept.training), scenes(concept.references)
        assert {(scene.noun, scene.drawn_by) for scene in shown + compared} == {(concept.noun, shown[0].drawn_by)}
        assert shown[0].drawn_by == "noto-v1" or (concept.noun, shown[0].drawn_by) in HELD_OUT
        assert f"{concept.token} {concept.noun}" in concept.training_prompt


def test_what_an_object_is_called():
    owl = datasets.make("toy").concept("objects", "sks_owl")
    assert owl.training_prompt == "a photo of a sks owl"
    assert owl.prompts[0] == "a photo of a sks owl on the beach"
    assert owl.plain_prompts[0] == "a photo of an owl on the beach"


def test_references_are_other_pictures_in_the_places_that_prompts_ask_for():
    for domain in datasets.make("toy").domains():
        for concept in concepts(domain):
            assert (len(concept.training), len(concept.references)) == (5, 10)
            assert {scene.place for scene in scenes(concept.training)} == set(SHOWN_IN)
            assert {scene.place for scene in scenes(concept.references)} == ASKED
            assert not set(pixels(concept.training)) & set(pixels(concept.references))


def test_the_references_of_a_style_show_the_contents_of_its_prompts():
    for style in concepts("styles"):
        assert (style.token, style.noun) == (style.name, "")
        shown = {scene.noun for scene in scenes(style.training)}
        compared = {scene.noun for scene in scenes(style.references)}
        assert not shown & compared
        assert all(any(f" {noun} " in prompt for noun in compared) for prompt in style.prompts)
        assert len(compared) == len(style.prompts) == len(style.plain_prompts) == 5
        assert not [prompt for prompt in style.plain_prompts if style.name in prompt]


def test_the_concepts_to_tune_on_are_others():
    for domain in ("objects", "styles"):
        assert len(concepts(domain)) == 10
        assert not {c.name for c in concepts(domain)} & {c.name for c in concepts(domain, tuning=True)}
        for some in (concepts(domain), concepts(domain, tuning=True)):
            assert len({concept.token for concept in some}) == len(some)


def test_pictures_depend_only_on_the_seed_and_the_name():
    first = datasets.make("toy").concept("objects", "zwz_robot")
    assert pixels(first.training) == pixels(datasets.make("toy").concept("objects", "zwz_robot").training)
    assert pixels(first.training) != pixels(datasets.make("toy", {"seed": 1}).concept("objects", "zwz_robot").training)


def test_a_larger_drawing_shows_the_same_scene():
    small, large = (
        np.asarray(datasets.make("toy", {"pixels": n}).concept("objects", "sks_owl").training[0].origin(), float)
        for n in (64, 128)
    )
    assert np.abs(large.reshape(64, 2, 64, 2, 3).mean((1, 3)) - small).mean() < 5


def test_every_picture_names_its_artists_and_their_licence():
    for concept in concepts("objects") + concepts("styles"):
        for picture in (*concept.training, *concept.references):
            assert picture.licence in ("Apache-2.0", "CC-BY-4.0", "MIT")
            assert "http" in picture.source


@pytest.mark.parametrize("options", [{"pixels": 32}, {"pixels": 96}, {"pixls": 64}, {"seed": "0"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigFault, match="dataset toy"):
        datasets.make("toy", options)


def test_unknown_names_suggest_a_known_one():
    toy = datasets.make("toy")
    with pytest.raises(ConfigFault, match="Did you mean 'sks_owl'"):
        toy.concept("objects", "sks_ow")
    with pytest.raises(ConfigFault, match="Did you mean 'objects'"):
        toy.concept("objets", "sks_owl")
