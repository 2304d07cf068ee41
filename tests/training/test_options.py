"""One task on the embedded base with options that the paper does not have: each has an effect, monitoring has none."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from stages.adapters.algebra import Adapter, fresh_adapter
from stages.adapters.state import State
from stages.adapters.storage import fingerprint, flat
from stages.core.dataset import class_prompt
from stages.core.family import Row
from stages.core.params import Params, Prior, Watch, load
from stages.core.runs import Run, TaskSequence
from stages.files import artifact
from stages.monitoring import previews, trackers
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import seed
from stages.sampling import sampler
from stages.training import task
from stages.training.distributed import process_group
from stages.training.examples import Material, encode_examples, micro_batches
from stages.training.loop import Training
from stages.training.task import Inputs, train

RUN = Run(TaskSequence("small", "objects", "0"), "naive", 0)
CONCEPT = {
    "noun": "star",
    "token": "sks",
    "training_prompt": "a photo of a sks owl",
    "prompts": ["a photo of a sks owl at night", "a photo of a sks owl in snow"],
}


@pytest.fixture(scope="module")
def project():
    return load(), Path.cwd()


@pytest.fixture
def params(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(project[1] / "data")
    return project[0]


def changed(params: Params, **sections) -> Params:
    """Small settings, with these changes by section."""
    tree = params.model_dump(mode="json")
    tree["train"] |= {"rank": 4, "steps": 4, "batch": 2}
    tree["sample"] |= {"steps": 2}
    for section, value in sections.items():
        tree[section] |= value
    return Params.model_validate_json(json.dumps(tree))


def learned(params: Params, *sizes: tuple[int, int], observe=None):
    """The adapter's fingerprint and the losses, after a task of pictures of these sizes."""
    sizes = sizes or ((32, 32),) * 3
    pixels = [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
              for i, (w, h) in enumerate(sizes)]  # fmt: skip
    frames = [(2 * h, 2 * w, 0, 0, h, w) for w, h in sizes]
    data = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": frame} for frame in frames]}}
    pictures = [Image.fromarray(value.numpy()) for value in pixels]
    adapter, losses = train(params, RUN, "01", Inputs(data, pictures, State()), observe)
    assert all(torch.isfinite(value).all() for value in flat(adapter).values())
    return fingerprint(flat(adapter)), losses


def test_checkpoints_are_of_everything_that_makes_another_training(params):
    small, fresh_state = changed(params), State()

    def folder(study=small, run=RUN, index="01", colour=0, prompt="a sks owl", state=fresh_state, size=32) -> str:
        entry = {"caption": None, "frame": (size, size, 0, 0, 32, 32)}
        data = {"concept": {**CONCEPT, "training_prompt": prompt}, "pictures": {"training": [entry]}}
        pictures = [Image.new("RGB", (32, 32), (colour, 0, 0))]
        return task.prepare(study, run, index, Inputs(data, pictures, state))[0].training.folder.name

    def drawn(k: int) -> Adapter:
        shapes, g = params.family.shapes(), torch.Generator().manual_seed(k)
        a = fresh_adapter(shapes, 4, 4.0, g)
        return Adapter(a.a, {n: torch.randn(b.shape, generator=g) for n, b in a.b.items()}, a.scale)

    one, other = drawn(1), drawn(2)
    source = changed(params, train={"conditioning": "source"})
    merging = replace(RUN, strategy="merge_init")
    found = [
        folder(),
        folder(index="02"),
        folder(run=replace(RUN, seed=1)),
        folder(run=replace(RUN, sequence=replace(RUN.sequence, order="1"))),
        folder(colour=1),
        folder(prompt="a sks bird"),
        folder(changed(params, train={"learning_rate": 1e-5})),
        folder(source),
        folder(source, size=64),
        folder(state=State(one.delta, one)),
        folder(state=State(other.delta, other)),
        folder(state=State(other.delta, replace(other, scale=0.5))),
        folder(run=merging, state=State(one.delta, one)),
        folder(run=merging, state=State(other.delta, one)),
    ]
    assert len({*found}) == len(found)
    assert folder(run=merging) == folder(), "the first task is the same for every strategy"


def concept(token: str, training_prompt: str, noun: str = "") -> dict[str, str]:
    return {"token": token, "noun": noun, "training_prompt": training_prompt}


@pytest.mark.parametrize(
    ("options", "about", "expected"),
    [
        (Prior(), CONCEPT, "a photo of a owl"),
        (Prior(prompt="one {}"), CONCEPT, "one star"),
        (Prior(), concept("palette knife", "palette knife image of Architectures"), "image of Architectures"),
        (Prior(), concept("noto emoji", "A picture in Noto  Emoji of a cat"), "A picture in of a cat"),
        (Prior(), concept("knife", "knife image of a penknife"), "image of a penknife"),
        (Prior(prompt="a picture of {}"), concept("noto emoji", "noto emoji image"), "a picture of"),
        (Prior(prompt="{} picture"), concept("noto emoji", "noto emoji image"), "picture"),
        (Prior(), concept("c++ (7)", "c++ (7) code"), "code"),
    ],
)
def test_the_class_prompt_is_the_prompt_without_the_token(options, about, expected):
    assert class_prompt(options.prompt, about) == expected


@pytest.mark.parametrize(
    ("options", "about", "expected"),
    [
        (
            Prior(),
            concept("palette knife", "palette knife"),
            "^train.prior: .*'palette knife' has no word for its class",
        ),
        (Prior(), concept("palette knife", "palette knife, "), "^train.prior: .* has no word for its class"),
        (Prior(prompt="{}"), concept("sks", "a sks"), "^train.prior.prompt: .*'sks' has no word for its class"),
        (Prior(prompt="a Palette knife {}"), concept("palette knife", "x", "image"), "the token 'palette knife'"),
        (Prior(prompt="a {}"), concept("sks", "a sks dog", "sks dog"), "prompt 'a sks dog' contains the token 'sks'"),
        (Prior(), concept("one two", "one one two two dog"), "prompt 'one two dog' contains the token 'one two'"),
    ],
)
def test_a_class_prompt_that_is_empty_or_names_the_concept_is_refused(options, about, expected):
    with pytest.raises(ConfigFault, match=expected) as caught:
        class_prompt(options.prompt, about)
    assert "\n" not in str(caught.value)


def test_class_pictures_are_sampled_once_and_trained_on(params, monkeypatch):
    plain = learned(changed(params))
    prior, calls = changed(params, train={"prior": {"images": 2, "weight": 0.5}}), []
    monkeypatch.setattr(task, "encode_examples", lambda *args: calls.append(args) or encode_examples(*args))
    once = learned(prior)
    assert once != plain
    (made,) = (path.parent for path in Path(".cache/images").rglob("manifest.json"))
    assert artifact.read(made, "pictures")["prompts"] == ["a photo of a owl"]
    drawn = changed(params, sample={"images": 2, "seed": seed(prior.sample.seed, "class")})
    (files,) = sampler.sample(drawn, State(), [["a photo of a owl"]])
    ((_, examples, count),) = calls
    assert [example.caption for example in examples] == ["a photo of a sks owl"] * 3 + ["a photo of a owl"] * 2
    assert [example.image.tobytes() for example in examples[count:]] == [Image.open(f).tobytes() for f in files]

    def samples(*_, **__):
        raise AssertionError("sampled again")

    monkeypatch.setattr(type(params.family), "sample", samples)
    assert learned(changed(params, train={"prior": {"images": 2, "weight": 0.5}, "checkpoint_every": 3})) == once


def test_the_loss_of_the_class_is_multiplied_by_its_weight(params):
    """The first loss is the concept's plus the weight times the mean over the class pictures."""

    def first(**prior) -> float:
        return learned(changed(params, train={"steps": 1, "prior": {"images": 2, **prior} if prior else None}))[1].loss[
            0
        ]

    alone, full, quarter = first(), first(batch=2), first(batch=2, weight=0.25)
    assert full - alone > 0.01
    assert quarter - alone == pytest.approx(0.25 * (full - alone), rel=1e-3)
    options = changed(params, train={"prior": {"images": 2, "batch": 2, "weight": 0.5}}).train
    training = SimpleNamespace(options=options, words=(0,), processes=process_group())
    rows = Training._rows(training, Material([{}] * 5, {}, [0, 0, 0, 1, 1], 3), 0)
    assert [(row.image >= 3, row.prompt, row.weight) for row in rows] == [(False, 0, 0.5)] * 2 + [(True, 1, 0.25)] * 2


def test_pictures_of_several_sizes_are_trained_together_each_with_its_frame(params):
    buckets = changed(params, prepare={"buckets": True, "bucket": 8})
    both = learned(buckets, (32, 32), (40, 24), (24, 40))
    assert len(both[1].loss) == 4
    assert learned(changed(params), (32, 32)) != learned(changed(params, train={"conditioning": "source"}), (32, 32))


def test_a_micro_batch_has_pictures_of_one_size():
    images = [{"moments": torch.zeros(1, 2, 4, *size)} for size in ((4, 4), (2, 8), (4, 4), (4, 4))]
    rows = [Row(i, 0, i, 0.25) for i in range(4)]
    assert [[row.image for row in part] for part in micro_batches(rows, images, 2)] == [[0, 2], [3], [1]]


def test_previews_start_at_step_0_and_change_nothing(params):
    plain = learned(changed(params))
    previewed = changed(params, watch={"previews_every": 2}, train={"checkpoint_every": 3})

    def observe(learner, frozen):
        return previews.Previews(previewed, RUN, "01", learner, frozen, CONCEPT)

    assert learned(previewed, observe=observe) == plain
    names = sorted(path.name for path in Path("previews/toy-objects/objects/0/naive/0/01").iterdir())
    assert names == [f"{step:06d}-{number:02d}.png" for step in (0, 2, 4) for number in (0, 1)]


def test_an_observer_that_fails_costs_one_warning_and_is_skipped(caplog):
    steps = []

    def breaks(step, losses):
        raise OSError("no space left")

    observe = previews.safe_observer([breaks, lambda step, losses: steps.append(step)])
    for step in range(3):
        observe(step, None)
    assert steps == [0, 1, 2]
    assert caplog.text.count("no space left") == 1


def test_a_tracker_gets_every_loss_once(monkeypatch, params):
    logged, ended = [], []
    accelerator = SimpleNamespace(
        log=lambda values, step: logged.append((step, values["loss"])), end_training=lambda: ended.append(True)
    )
    monkeypatch.setattr(trackers, "_open", lambda *_: accelerator)
    tracked = params.model_copy(update={"watch": Watch(tracker="tensorboard")})
    with trackers.tracking(tracked, RUN, "01") as track:
        _, losses = learned(changed(params), observe=lambda learner, frozen: track)
    assert logged == list(enumerate(losses.loss, 1))
    assert ended == [True]


def test_a_missing_tracker_costs_a_warning(monkeypatch, params, caplog):
    monkeypatch.setattr("accelerate.Accelerator.trackers", [], raising=False)
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: [])
    tracked = params.model_copy(update={"watch": Watch(tracker="wandb")})
    with trackers.tracking(tracked, RUN, "01") as track:
        assert track is None
    assert "wandb" in caplog.text
