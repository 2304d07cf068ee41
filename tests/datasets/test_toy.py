import numpy as np
import pytest

from data.world.draw import SHAPES
from stages.core.dataset import datasets
from stages.runtime.faults import ConfigFault


def all_concepts(**options):
    toy = datasets.make("toy", options)
    return [toy.concept(domain, name) for domain, names in toy.domains().items() for name in names]


def pixels(pictures) -> list[bytes]:
    return [picture.origin().tobytes() for picture in pictures]


def test_the_references_of_an_object_are_its_training_pictures():
    star = datasets.make("toy").concept("objects", "sks_star")
    assert star.training_prompt == "a photo of a sks star"
    assert star.prompts[0] == "a photo of a sks star on the beach"
    assert star.plain_prompts[0] == "a photo of a star on the beach"
    assert star.references == star.training
    assert len(star.training) == 6


def test_the_references_of_a_style_show_other_shapes_than_its_training_pictures():
    toy = datasets.make("toy")
    training_shapes = set()
    for name in toy.domains()["styles"]:
        style = toy.concept("styles", name)
        shape = style.training_prompt.removeprefix(f"a {name} picture of a ")
        assert shape in SHAPES
        assert (style.token, style.noun) == (name, "")
        assert len(style.references) == 10
        assert {picture.origin.args[0].shape for picture in style.training} == {shape}
        assert shape not in {picture.origin.args[0].shape for picture in style.references}
        assert len(style.prompts) == 5
        assert not [prompt for prompt in style.prompts if f" {shape} " in prompt]
        assert [prompt.replace(f"a {name} picture", "a photo") for prompt in style.prompts] == list(style.plain_prompts)
        training_shapes.add(shape)
    assert len(training_shapes) == 10


def test_ten_of_each_with_distinct_tokens_and_pictures():
    for concepts in (all_concepts(), all_concepts(tuning=True)):
        assert len({concept.token for concept in concepts}) == len(concepts)
        shown = [data for concept in concepts for data in pixels(concept.training)]
        assert len(set(shown)) == len(shown)
    assert {domain: len(names) for domain, names in datasets.make("toy").domains().items()} == {
        "objects": 10,
        "styles": 10,
    }
    assert not {c.name for c in all_concepts()} & {c.name for c in all_concepts(tuning=True)}


def test_prompts_name_places_that_training_pictures_do_not_show():
    for concept in all_concepts():
        places = {picture.origin.args[0].place for picture in concept.training}
        assert len(places) == 4
        assert not places & {"beach", "forest", "city", "snow", "meadow"}


def test_pictures_depend_only_on_the_seed_and_the_name():
    first = datasets.make("toy").concept("objects", "zwz_heart")
    assert pixels(first.training) == pixels(datasets.make("toy").concept("objects", "zwz_heart").training)
    assert pixels(first.training)[:5] == pixels(
        datasets.make("toy", {"pictures": 5}).concept("objects", "zwz_heart").training
    )
    assert pixels(first.training) != pixels(datasets.make("toy", {"seed": 1}).concept("objects", "zwz_heart").training)


def test_a_larger_drawing_shows_the_same_scene():
    small, large = (
        np.asarray(datasets.make("toy", {"pixels": n}).concept("objects", "sks_star").training[0].origin(), float)
        for n in (32, 64)
    )
    assert np.abs(large.reshape(32, 2, 32, 2, 3).mean((1, 3)) - small).mean() < 5


@pytest.mark.parametrize("options", [{"pictures": 3}, {"pixels": 33}, {"pixls": 32}, {"seed": "0"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigFault, match="dataset toy"):
        datasets.make("toy", options)


def test_unknown_names_suggest_a_known_one():
    toy = datasets.make("toy")
    with pytest.raises(ConfigFault, match="Did you mean 'sks_star'"):
        toy.concept("objects", "sks_sta")
    with pytest.raises(ConfigFault, match="Did you mean 'objects'"):
        toy.concept("objets", "sks_star")
