"""The class of a concept stays what it was where its plain words are rehearsed."""

import pytest

from stages.adapters.state import State
from stages.core.dataset import class_prompt
from stages.core.rehearsal import Rehearsal
from stages.core.strategy import strategies
from stages.runtime.faults import ConfigFault
from stages.training import rehearsal
from tests.training.test_options import CONCEPT, concept, params, project  # noqa: F401
from tests.training.test_rehearsal import EARLIER, learned, with_rule

CLASSES = {"prompts": "earlier", "classes": True}


def test_with_the_earlier_words_the_plain_words_of_all_classes_are_rehearsed_from_the_first_task_on(params):  # noqa: F811
    options = Rehearsal(prompts="earlier", classes=True)
    classes = [class_prompt(None, c) for c in (*EARLIER, CONCEPT)]
    spoken = [c["training_prompt"] for c in EARLIER]
    assert rehearsal.prompts(params.family, options, [*EARLIER, CONCEPT]) == dict.fromkeys([*spoken, *classes], 1)
    assert [*rehearsal.prompts(params.family, options, [CONCEPT])] == [class_prompt(None, CONCEPT)]
    assert [options.rows_at(task) for task in (0, 1)] == [2, 2]
    assert [*rehearsal.prompts(params.family, Rehearsal(prompts="class"), [*EARLIER, CONCEPT])] == classes[-1:]
    assert [Rehearsal(prompts="class").rows_at(task) for task in (0, 1)] == [2, 2]
    assert [Rehearsal(prompts="earlier").rows_at(task) for task in (0, 1)] == [0, 2]
    study = with_rule(params, options={"rehearse": CLASSES})
    assert learned(study, [], State(), "01") != learned(with_rule(params), [], State(), "01")


def test_in_scenes_half_of_the_rows_are_for_earlier_words_and_a_quarter_each_for_this_class_and_the_others(params):  # noqa: F811
    options = Rehearsal(prompts="earlier", classes=True, scenes=("on the beach", "at night"))
    often = rehearsal.prompts(params.family, options, [*EARLIER, CONCEPT])
    words, own = [c["training_prompt"] for c in EARLIER], class_prompt(None, CONCEPT)
    of = {kind: [n for said, n in often.items() if said.startswith(tuple(kind))] for kind in ((*words,), (own,))}
    assert [len(group) for group in of.values()] == [3 * len(EARLIER), 3]
    assert sum(of[*words,]) == sum(often.values()) / 2
    assert sum(of[own,]) == sum(often.values()) / 4
    assert {f"{own} on the beach", f"{own} at night", own} < {*often}
    alone = rehearsal.prompts(params.family, Rehearsal(prompts="class", scenes=("at night",)), [*EARLIER, CONCEPT])
    assert alone == {own: 1, f"{own} at night": 1}
    with pytest.raises(ConfigFault, match="scenes goes with prompts: earlier and class"):
        strategies.make("rehearse_words", {"rehearse": {"prompts": "generic", "scenes": ["at night"]}})


def test_a_class_of_two_concepts_has_the_rows_of_both(params):  # noqa: F811
    options = Rehearsal(prompts="earlier", classes=True, scenes=("at night",))
    twin, own = concept("zwx", "a photo of a zwx owl"), class_prompt(None, CONCEPT)
    assert class_prompt(None, twin) == own
    often = rehearsal.prompts(params.family, options, [twin, CONCEPT])
    assert often == dict.fromkeys(
        [twin["training_prompt"], f"{twin['training_prompt']} at night", own, f"{own} at night"], 1
    )


def test_classes_are_rehearsed_beside_earlier_concepts_alone():
    with pytest.raises(ConfigFault, match="classes goes with prompts: earlier"):
        strategies.make("rehearse_words", {"rehearse": {"prompts": "generic", "classes": True}})


def test_a_class_without_words_is_refused_by_name():
    with pytest.raises(ConfigFault, match=r"^strategy\.w\.rehearse: .*'sks' has no word for its class"):
        class_prompt(None, concept("sks", "sks"), "strategy.w.rehearse")


def test_to_rehearse_the_concepts_own_class_is_to_know_nothing_of_earlier_ones():
    assert strategies.make("merge_init", {"rehearse": {"prompts": "class"}}).knows == "strict"
    assert strategies.make("merge_init", {"rehearse": CLASSES}).knows == "words"
