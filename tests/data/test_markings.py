"""The base is trained on markings, but on none of a concept's."""

from itertools import islice

import numpy as np

from data.world.draw import PATTERNS, SHAPES
from data.world.markings import describe, marked_world
from data.world.pretrain_base import LENGTH, new_tokenizer
from data.world.scenes import OBJECTS, TUNING_OBJECTS


def samples(count: int):
    return list(islice(marked_world(np.random.default_rng(5)), count))


def test_the_base_is_trained_on_no_marking_of_a_concept():
    reserved = {(one.shape, one.marking.pattern) for one in (*OBJECTS, *TUNING_OBJECTS)}
    shown = {(scene.shape, scene.marking.pattern) for scene, _ in samples(3000)}
    assert not shown & reserved
    assert len(shown) == len(SHAPES) * (len(PATTERNS) - 1) - len(reserved)


def test_captions_describe_the_marking_or_only_mention_it():
    pairs = samples(500)
    described = [describe(scene) in caption for scene, caption in pairs]
    assert all(described[i] or f"a patterned {scene.shape}" in caption for i, (scene, caption) in enumerate(pairs))
    assert 0.3 < np.mean(described) < 0.6


def test_captions_fit_the_tokenizer_with_one_token_per_word():
    tokenizer = new_tokenizer()
    for _, caption in samples(500):
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 2 <= LENGTH
