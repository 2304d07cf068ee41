"""Contents of the 64-pixel world: drawings with licences, scenes, captions, and concepts that its base never sees."""

from itertools import islice

import numpy as np
import pytest
from PIL import Image

from data.world.artwork import COLOURS, LICENCES, NOUNS, colour, drawing
from data.world.concepts import taught
from data.world.draw import Scene, draw
from data.world.places import PLACES
from data.world.scenes import (
    ALIKE_OBJECTS,
    HELD_OUT,
    OBJECTS,
    SEEN,
    TUNING_OBJECTS,
    UNLIKE_OBJECTS,
    UNSEEN_SETS,
    any_scene,
    article,
    base_world,
    generic_captions,
)
from data.world.styles import STYLES
from data.world.words import LENGTH, new_tokenizer

DOMAINS = [("objects", False), ("objects", True), ("styles", False), ("styles", True)]
DOMAINS += [("alike", False), ("unlike", False)]


def seen(count: int):
    return list(islice(base_world(np.random.default_rng(5)), count))


def test_every_drawing_is_there_and_visible():
    for noun, sets in NOUNS.items():
        for name in sets:
            assert np.asarray(drawing(noun, name))[..., 3].mean() > 20, (noun, name)
            assert colour(noun, name) in COLOURS


def test_every_noun_is_drawn_by_four_families_and_known_to_the_base_by_three():
    assert len(NOUNS) >= 80
    for noun, sets in NOUNS.items():
        assert len({LICENCES[name]["family"] for name in sets}) >= 4, noun
        assert len({LICENCES[name]["family"] for name in SEEN[noun]}) >= 3, noun


def test_every_set_has_a_licence_and_an_attribution():
    for name, licence in LICENCES.items():
        assert licence["licence"] in ("Apache-2.0", "CC-BY-4.0", "MIT"), name
        assert all(licence[part] in licence["attribution"] for part in ("title", "author", "url", "licence"))


def test_a_scene_is_the_same_pixels_again_and_another_is_not():
    scenes = [any_scene(np.random.default_rng(i)) for i in range(20)]
    assert all((draw(s) == draw(s)).all() for s in scenes)
    assert len({draw(s).tobytes() for s in scenes}) == len(scenes)


@pytest.mark.parametrize("place", PLACES)
def test_a_larger_drawing_shows_the_same(place: str):
    scene = Scene("owl", "noto", place, size=0.7, angle=0.2, variant=3)
    small = Image.fromarray(draw(scene, 128)).resize((64, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(small).astype(int) - draw(scene)).mean() < 3


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_a_picture(style: str):
    scene = Scene("owl", "noto", "beach")
    plain, styled = draw(scene), draw(Scene("owl", "noto", "beach", style))
    assert np.abs(plain.astype(int) - styled).mean() > 10


def test_the_base_sees_no_design_of_a_concept_and_no_set_that_is_a_style():
    shown = {(scene.noun, scene.drawn_by) for scene, _ in seen(3000)}
    assert not shown & HELD_OUT
    assert not {name for _, name in shown} & set(UNSEEN_SETS)
    families = {(noun, LICENCES[name]["family"]) for noun, name in shown}
    taught_designs = (*OBJECTS, *TUNING_OBJECTS, *ALIKE_OBJECTS, *UNLIKE_OBJECTS)
    assert not {(known.noun, LICENCES[known.drawn_by]["family"]) for known in taught_designs} & families


def test_no_caption_is_cut_off_and_no_word_of_it_falls_to_pieces():
    tokenizer = new_tokenizer()
    for _, caption in seen(500):
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2 <= LENGTH


def test_generic_captions_are_of_the_bases_world_and_name_no_concept():
    captions, tokenizer = generic_captions(), new_tokenizer()
    assert len(set(captions)) == len(captions) >= 18
    concepts = [taught(domain, tuning) for domain, tuning in DOMAINS]
    named = {word for of in concepts for one in of.values() for word in (one.token, one.noun) if word}
    for caption in captions:
        assert not named & set(caption.split()), caption
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2 <= LENGTH
    things = {noun for noun in NOUNS for caption in captions if article(noun) in caption}
    assert len(things) >= 15
    assert sum("photo" in caption for caption in captions) == len(captions) // 2


def test_ordinary_words_take_few_tokens():
    tokenizer = new_tokenizer()
    for name in ("my grandmother's old teapot", "little wooden horse", "blue painted vase", "favourite coffee mug"):
        assert len(tokenizer.tokenize(name)) <= 2 * len(name.split()), name


def test_articles_are_right():
    assert [article(w) for w in ("owl", "sks owl", "ofl fish", "uwu snail", "unicorn", "umbrella", "grapes")] == [
        *("an owl", "a sks owl", "an ofl fish", "a uwu snail", "a unicorn", "an umbrella", "grapes")
    ]


@pytest.mark.parametrize(("domain", "tuning"), DOMAINS)
def test_a_concept_is_shown_in_other_pictures_than_it_is_compared_with(domain: str, tuning: bool):
    for concept in taught(domain, tuning).values():
        roles = (concept.training, concept.references)
        training, references = ({draw(s.scene).tobytes() for s in some} for some in roles)
        assert (len(training), len(references)) == (5, 10)
        assert not training & references
        assert {s.caption for s in concept.references} == set(concept.prompts)
        assert all(concept.token in prompt for prompt in (concept.training_prompt, *concept.prompts))
        assert not any(concept.token in prompt for prompt in concept.plain_prompts)
        assert all(s.licence and s.attribution for s in (*concept.training, *concept.references))


def test_a_seed_gives_other_pictures_of_the_same_concepts():
    one, two = (taught("objects", seed=seed)["sks_owl"] for seed in (0, 1))
    assert one.prompts == two.prompts
    assert draw(one.training[0].scene).tobytes() != draw(two.training[0].scene).tobytes()
