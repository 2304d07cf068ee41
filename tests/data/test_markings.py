"""What the base may learn from: markings, but none of a concept's."""

from itertools import islice

import numpy as np

from data.world.draw import PATTERNS, SHAPES
from data.world.markings import describe, marked_world
from data.world.pretrain_base import LENGTH, new_tokenizer
from data.world.scenes import OBJECTS, TUNING_OBJECTS


def seen(count: int):
    return list(islice(marked_world(np.random.default_rng(5)), count))


def test_no_concept_is_among_the_markings_that_the_base_sees():
    taught = {(known.shape, known.marking.pattern) for known in (*OBJECTS, *TUNING_OBJECTS)}
    shown = {(scene.shape, scene.marking.pattern) for scene, _ in seen(3000)}
    assert not shown & taught
    assert len(shown) == len(SHAPES) * (len(PATTERNS) - 1) - len(taught)


def test_captions_describe_the_marking_or_only_say_that_there_is_one():
    pairs = seen(500)
    described = [describe(scene) in caption for scene, caption in pairs]
    assert all(described[i] or f"a patterned {scene.shape}" in caption for i, (scene, caption) in enumerate(pairs))
    assert 0.3 < np.mean(described) < 0.6


def test_no_caption_is_cut_off_and_no_word_of_it_falls_to_pieces():
    tokenizer = new_tokenizer()
    for _, caption in seen(500):
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 2 <= LENGTH
