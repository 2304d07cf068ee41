"""Rehearsal on the embedded base: the loss is the documented one, the targets are those of the model before the task,
a kill loses nothing, and without rehearsal nothing changes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.world.scenes import generic_captions
from stages.adapters.algebra import Adapter
from stages.adapters.state import State
from stages.adapters.storage import fingerprint, flat
from stages.core.family import Row, TrainingOptions
from stages.core.params import Watch
from stages.core.rehearsal import Rehearsal
from stages.core.strategy import strategies
from stages.families.unet.learner import UNetLearner
from stages.monitoring import previews
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import seed
from stages.sampling.encodings import encode_images, encode_prompts
from stages.training import rehearsal, task
from stages.training.answers import BLOCK, Answers
from stages.training.examples import Material, Repertoire
from stages.training.loop import Training, rehearsed_rows
from stages.training.step import Descent
from stages.training.task import Inputs, train
from tests.training.test_options import CONCEPT, RUN, changed, params, project  # noqa: F401

EARLIER = [
    {"training_prompt": f"a photo of a {token} {noun}", "token": token, "noun": noun}
    for token, noun in (("zwz", "robot"), ("uwu", "snail"))
]
WORDS = {"merge_init": {"rehearse": {"prompts": "earlier", "weight": 3.0, "rows": 2}}}


def shaped(study, seed: int, size: float = 0.02) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(4, columns, generator=g) / 4 for n, (_, columns) in study.family.shapes().items()}
    b = {n: size * torch.randn(rows, 4, generator=g) for n, (rows, _) in study.family.shapes().items()}
    return Adapter(a, b, 1.0)


def photos(count: int = 3) -> list[Image.Image]:
    drawn = [
        torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        for i in range(count)
    ]
    return [Image.fromarray(pixels.numpy()) for pixels in drawn]


def rehearsed(learner, rows: list[Row]):
    """The inputs of these rows with the answers of the model without its adapter."""
    asked = [row for row in rows if row.rehearsed]
    with torch.no_grad():
        answers = learner.answer(learner.inputs(asked))
    return learner.inputs(rows, dict(zip(asked, answers.unbind(), strict=True)))


def learned(study, earlier=EARLIER, state: State | None = None, index: str = "03"):
    """The adapter and its losses after a third task."""
    before = state or State(shaped(study, 1).delta, tasks=2)
    data = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": None}] * 3}}
    run = type(RUN)(RUN.sequence, study.strategies[0], 0)
    adapter, losses = train(study, run, index, Inputs(data, photos(), before, earlier))
    return fingerprint(flat(adapter)), losses


def with_rule(params, name="merge_init", options=None, **sections):  # noqa: F811
    study = changed(params, strategy={name: (options or {})}, **sections)
    return study.model_copy(update={"strategies": (name,)})


@pytest.mark.parametrize("options", [{}, {"layers": "peft"}, {"checkpointing": True}], ids=str)
def test_the_loss_is_that_of_the_task_and_of_the_answers_before_it(params, options):  # noqa: F811
    frozen, adapter = shaped(params, 1).delta, shaped(params, 2)
    images, prompts = encode_images(params.family, photos(2)), encode_prompts(params.family, ["a", "a sks owl"])
    taught = [Row(0, 1, 11, 0.5), Row(1, 1, 12, 0.5)]
    asked = [Row(0, 0, 13, 0.7), Row(1, 0, 14, 0.7)]
    told = [Row(row.image, row.prompt, row.seed, row.weight, True) for row in asked]
    before = params.family.learner(
        frozen, Adapter(adapter.a, {n: 0 * b for n, b in adapter.b.items()}), TrainingOptions()
    )
    before.prepare(images, prompts)
    with torch.no_grad():
        answer = before._predicted(before.inputs(asked), before.layers["unet"])
    learner = params.family.learner(frozen, adapter, TrainingOptions(**options))
    learner.prepare(images, prompts)
    together = learner.loss(rehearsed(learner, [*taught[:1], told[0], *taught[1:], told[1]]))
    together.backward()
    gradients = [parameter.grad.clone() for parameter in learner.parameters()]
    for parameter in learner.parameters():
        parameter.grad = None
    parts = []
    for inputs in ({**learner.inputs(asked), "wanted": answer}, learner.inputs(taught)):
        parts.append(learner.loss(inputs))
        parts[-1].backward()
    wanted = (parts[0] + parts[1]).detach()
    torch.testing.assert_close(together.detach(), wanted, rtol=1e-4, atol=1e-6)
    for one, parameter in zip(gradients, learner.parameters(), strict=True):
        assert float((one - parameter.grad).norm()) <= 1e-3 * float(parameter.grad.norm())  # two orders of a sum
    assert float(parts[0].detach()) > 1e-4


@pytest.mark.parametrize("layers", ["grouped", "peft"])
def test_at_step_0_the_model_answers_as_the_one_before(params, layers):  # noqa: F811
    start = shaped(params, 2, size=0.0)
    learner = params.family.learner(shaped(params, 1).delta, start, TrainingOptions(layers=layers))
    learner.prepare(encode_images(params.family, photos(1)), encode_prompts(params.family, ["a"]))
    loss = learner.loss(rehearsed(learner, [Row(0, 0, 5, 1.0, True)]))
    loss.backward()
    assert float(loss.detach()) < 1e-10
    assert all(float(p.grad.abs().max()) < 1e-6 for p in learner.parameters())


def test_the_frozen_text_encoders_answer_too_where_adapters_shift_them(params):  # noqa: F811
    tree = params.model_dump(mode="json")
    tree["base"]["options"]["text_encoders"] = True
    study = type(params).model_validate_json(json.dumps(tree))
    losses = []
    for size in (0.0, 0.02):
        learner = study.family.learner(shaped(study, 1).delta, shaped(study, 2, size), TrainingOptions())
        learner.prepare(encode_images(study.family, photos(1)), encode_prompts(study.family, ["a sks owl"]))
        losses.append(learner.loss(rehearsed(learner, [Row(0, 0, 5, 1.0, True)])))
    losses[1].backward()
    assert float(losses[0].detach()) < 1e-10 < 1e-5 < float(losses[1].detach())
    assert all(bool(p.grad.any()) for p in learner.parameters()[:1])


def test_rows_go_through_all_pairs_before_any_comes_again():
    repertoire = Repertoire([(i, 7 + j) for i in range(3) for j in range(2)], 2, 3.0)
    rows = [row for step in range(6) for row in rehearsed_rows((0, "0", "03"), repertoire, step)]
    for epoch in (rows[:6], rows[6:]):
        assert sorted((row.image, row.prompt) for row in epoch) == sorted(repertoire.pairs)
    assert {row.weight for row in rows} == {1.5}
    assert all(row.rehearsed for row in rows)
    learned = [seed(0, "0", "03", "step", step, number) for step in range(6) for number in range(2)]
    assert len({*learned, *(row.seed for row in rows)}) == len(rows) + len(learned), "no noise is drawn twice"
    material = Material([{}] * 3, {}, [0] * 3, 3, repertoire)
    assert len(material.images) == 3


def test_prompts_are_rehearsed_on_pictures_of_the_concept_not_of_its_class(params):  # noqa: F811
    learned_from = Material([{}] * 3, encode_prompts(params.family, ["a sks owl", "an owl"]), [0, 0, 1], 2)
    options = Rehearsal(prompts="earlier", rows=3, weight=2.0)
    found = rehearsal.with_rehearsal(params.family, learned_from, options, {"a mug": 2, "a boot": 1}, None)
    assert found.repertoire == Repertoire([(0, 2), (0, 2), (0, 3), (1, 2), (1, 2), (1, 3)], 3, 2.0)
    assert torch.equal(found.prompts["text"][2:], encode_prompts(params.family, ["a mug", "a boot"])["text"])


def test_the_rows_of_a_block_are_answered_together_as_each_would_be_alone(params, monkeypatch):  # noqa: F811
    learner = params.family.learner(shaped(params, 1).delta, shaped(params, 2), params.train)
    images = encode_images(params.family, photos(2))
    learner.prepare(images, encode_prompts(params.family, ["a", "a sks owl"]))
    descent, sizes = Descent(learner, params.train, 25), []
    answer = descent.answer
    monkeypatch.setattr(descent, "answer", lambda inputs: sizes.append(len(inputs["times"])) or answer(inputs))

    def rows_of(step):
        return [Row(0, 0, 3 * step, 1.0), Row(0, 1, 3 * step + 1, 1.0, True), Row(1, 0, 3 * step + 2, 1.0, True)]

    answers = Answers(learner, descent, rows_of, images)
    for step in range(BLOCK):
        known = answers.at(step, None)
    assert sizes == [2 * BLOCK]
    assert set(known) == {row for step in range(BLOCK) for row in rows_of(step) if row.rehearsed}
    for row in rows_of(3)[1:]:
        alone = answer(learner.inputs([row]))[0]
        assert float((known[row] - alone).norm()) <= 1e-4 * float(alone.norm())
    answers.at(BLOCK, 24)
    answers.forget()
    answers.at(BLOCK, None)
    assert sizes == [2 * BLOCK, 24, 8, 2 * BLOCK]


def test_it_changes_what_is_learned_and_a_kill_does_not(params, monkeypatch):  # noqa: F811
    plain = learned(with_rule(params))
    study = with_rule(params, options=WORDS["merge_init"], train={"steps": 5, "checkpoint_every": 2})
    whole = learned(study)
    assert whole != learned(with_rule(params, train={"steps": 5, "checkpoint_every": 2}))
    assert learned(with_rule(params)) == plain
    right, calls = UNetLearner.loss, []

    def dies(self, inputs):
        calls.append(len(inputs["times"]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return right(self, inputs)

    monkeypatch.setattr(UNetLearner, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        learned(study)
    assert learned(study) == whole
    assert len(calls) == 4 + 5 - 2
    assert calls[0] == 4


def test_without_earlier_concepts_there_are_no_words_to_rehearse(params):  # noqa: F811
    study = with_rule(params, options=WORDS["merge_init"])
    assert learned(study, [], State(), "01") == learned(with_rule(params), [], State(), "01")
    earlier = rehearsal.prompts(params.family, Rehearsal(prompts="earlier"), [*EARLIER * 2, CONCEPT])
    assert [*earlier] == [c["training_prompt"] for c in EARLIER]


def test_generic_captions_are_those_of_the_options_or_of_the_base(params, tmp_path):  # noqa: F811
    generic = Rehearsal(prompts="generic")
    assert [*rehearsal.prompts(params.family, generic, [*EARLIER, CONCEPT])] == generic_captions()
    own = Rehearsal(prompts="generic", captions=("a beach", "a tree", "a beach"))
    assert [*rehearsal.prompts(params.family, own, [CONCEPT])] == ["a beach", "a tree"]
    (tmp_path / "base").mkdir()
    (tmp_path / "base/captions.txt").write_text("a photo of an owl\na photo of a car\n")
    other = params.family.model_copy(update={"path": str(tmp_path / "base")})
    assert [*rehearsal.prompts(other, generic, [CONCEPT])] == ["a photo of an owl", "a photo of a car"]


def test_half_the_rows_at_a_time_come_to_the_same(params, monkeypatch):  # noqa: F811
    study = with_rule(params, options=WORDS["merge_init"])
    whole, kept = learned(study)[1], Training.run

    def halved(self, *rest):
        self.losses.micro_batch = 3
        return kept(self, *rest)

    monkeypatch.setattr(Training, "run", halved)
    assert learned(study)[1].loss == pytest.approx(whole.loss, rel=1e-4)


def test_pictures_of_the_model_before_are_made_once_and_shown_with_their_words(params, monkeypatch):  # noqa: F811
    rehearse = {"prompts": "earlier", "pictures": "state", "images": 2, "rows": 1}
    study, heard = with_rule(params, options={"rehearse": rehearse}), []
    build = rehearsal.with_rehearsal
    monkeypatch.setattr(rehearsal, "with_rehearsal", lambda *told: heard.append(build(*told)) or heard[-1])
    once = learned(study)
    assert once != learned(with_rule(params, options={"rehearse": {**rehearse, "pictures": "task"}}))
    (material, _) = heard
    assert (len(material.images), len(material.captions)) == (3 + 4, 3)
    assert material.repertoire.pairs == [(3, 1), (4, 1), (5, 2), (6, 2)]

    def samples(*_, **__):
        raise AssertionError("sampled again")

    monkeypatch.setattr(type(params.family), "sample", samples)
    assert learned(with_rule(params, options={"rehearse": rehearse}, train={"checkpoint_every": 3})) == once


def test_previews_change_nothing_of_what_is_rehearsed(params):  # noqa: F811
    study = with_rule(params, options=WORDS["merge_init"])
    before, plain = State(shaped(params, 1).delta, tasks=2), learned(study)
    previewed = study.model_copy(update={"watch": Watch(previews_every=2, previews=1)})

    def observe(learner, frozen):
        return previews.Previews(previewed, RUN, "03", learner, frozen, CONCEPT)

    data = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": None}] * 3}}
    run = type(RUN)(RUN.sequence, "merge_init", 0)
    adapter, losses = train(study, run, "03", Inputs(data, photos(), before, EARLIER), observe)
    assert (fingerprint(flat(adapter)), losses) == plain
    assert len(list(Path("previews").rglob("*.png"))) == 3  # after steps 0, 2 and 4


def test_captions_of_anything_are_rehearsed_from_the_first_task_on(params):  # noqa: F811
    study = with_rule(params, options={"rehearse": {"prompts": "generic", "captions": ["a red owl", "a beach"]}})
    assert learned(study, [], State(), "01") != learned(with_rule(params), [], State(), "01")


@pytest.mark.parametrize("name", [n for n, c in strategies.classes.items() if not c.starts_fresh])
def test_a_strategy_that_goes_on_with_an_adapter_cannot_rehearse(name):
    with pytest.raises(ConfigFault, match="rehearse needs a strategy whose tasks train a fresh adapter"):
        strategies.make(name, {"rehearse": {"prompts": "earlier"}})


@pytest.mark.parametrize("layers", ["grouped", "peft"])
def test_b_alone_is_trained_where_a_is_fixed(params, layers):  # noqa: F811
    adapter = shaped(params, 2)
    gradients = []
    for fixed in (False, True):
        learner = params.family.learner(None, adapter, TrainingOptions(layers=layers, fixed_a=fixed))
        learner.prepare(encode_images(params.family, photos(1)), encode_prompts(params.family, ["a"]))
        back = learner.adapter()
        assert fingerprint(flat(back)) == fingerprint(flat(adapter))
        learner.loss(learner.inputs([Row(0, 0, 5, 1.0)])).backward()
        for parameter in learner.parameters():
            with torch.no_grad():
                parameter -= parameter.grad
        gradients.append(learner.adapter())
    both, alone = gradients
    assert all(torch.equal(alone.a[n], adapter.a[n]) for n in adapter.a)
    assert not all(torch.equal(both.a[n], adapter.a[n]) for n in adapter.a)
    for n in adapter.b:
        torch.testing.assert_close(alone.b[n], both.b[n], rtol=1e-4, atol=1e-6)


def test_a_strategy_may_fix_a(params, monkeypatch):  # noqa: F811
    seen = []
    right = type(params.family).learner
    monkeypatch.setattr(type(params.family), "learner", lambda self, *told: seen.append(told) or right(self, *told))
    fixed = next(name for name, cls in strategies.classes.items() if not cls.trains_a)
    learned(with_rule(params, fixed))
    ((_, _, options),) = seen
    assert options.fixed_a


def test_a_shared_draw_is_not_used_where_it_lies_in_what_was_learned(params, monkeypatch):  # noqa: F811
    drawn = []
    task._drawn.cache_clear()
    right = task.generator
    monkeypatch.setattr(task, "generator", lambda *words: drawn.append(words) or right(*words))
    options = {"merging": "exact", "init": "row_space"}
    for name, given in (("merge_init", {}), ("ortho_init", options)):
        for state, index in ((State(), "01"), (None, "03")):
            learned(with_rule(params, name, given), EARLIER, state, index)
    assert drawn == [("0", "fresh"), ("0", "0", "03", "fresh")]  # the shared one once
