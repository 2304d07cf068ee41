"""One task on the embedded base with options that the paper does not have: each does something, what only looks on
changes nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

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
from stages.training.examples import Material, encoded
from stages.training.loop import Training, alike
from stages.training.task import train

RUN = Run(TaskSequence("small", "objects", "0"), "naive", 0)
CONCEPT = {
    "noun": "star",
    "token": "sks",
    "training_prompt": "a photo of a sks star",
    "prompts": ["a photo of a sks star at night", "a photo of a sks star in snow"],
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
    tree = params.model_dump(mode="json")
    tree["train"] |= {"rank": 4, "steps": 4, "batch": 2}
    tree["sample"] |= {"steps": 2}
    for section, value in sections.items():
        tree[section] |= value
    return Params.model_validate_json(json.dumps(tree))


def learnt(params: Params, *sizes: tuple[int, int], observe=None):
    """The adapter's fingerprint and the losses, after a task of pictures of these sizes."""
    sizes = sizes or ((32, 32),) * 3
    pixels = [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
              for i, (w, h) in enumerate(sizes)]  # fmt: skip
    frames = [(2 * h, 2 * w, 0, 0, h, w) for w, h in sizes]
    data = {"concept": CONCEPT, "pictures": {"training": [{"caption": None, "frame": frame} for frame in frames]}}
    pictures = [Image.fromarray(value.numpy()) for value in pixels]
    adapter, losses = train(params, RUN, "01", State(), data, pictures, observe)
    assert all(torch.isfinite(value).all() for value in flat(adapter).values())
    return fingerprint(flat(adapter)), losses


def concept(token: str, training_prompt: str, noun: str = "") -> dict[str, str]:
    return {"token": token, "noun": noun, "training_prompt": training_prompt}


@pytest.mark.parametrize(
    ("options", "about", "said"),
    [
        (Prior(), CONCEPT, "a photo of a star"),
        (Prior(prompt="one {}"), CONCEPT, "one star"),
        (Prior(), concept("palette knife", "palette knife image of Architectures"), "image of Architectures"),
        (Prior(), concept("noto emoji", "A picture in Noto  Emoji of a cat"), "A picture in of a cat"),
        (Prior(), concept("knife", "knife image of a penknife"), "image of a penknife"),
        (Prior(prompt="a picture of {}"), concept("noto emoji", "noto emoji image"), "a picture of"),
        (Prior(prompt="{} picture"), concept("noto emoji", "noto emoji image"), "picture"),
        (Prior(), concept("c++ (7)", "c++ (7) code"), "code"),
    ],
)
def test_the_class_is_named_by_the_prompt_without_the_token(options, about, said):
    assert class_prompt(options.prompt, about) == said


@pytest.mark.parametrize(
    ("options", "about", "said"),
    [
        (Prior(), concept("palette knife", "palette knife"), "^train.prior: .*'palette knife' it leaves no word"),
        (Prior(), concept("palette knife", "palette knife, "), "^train.prior: .* leaves no word"),
        (Prior(prompt="{}"), concept("sks", "a sks"), "^train.prior.prompt: .*'sks' it leaves no word"),
        (Prior(prompt="a Palette knife {}"), concept("palette knife", "x", "image"), "holds these words"),
        (Prior(prompt="a {}"), concept("sks", "a sks dog", "sks dog"), "'a sks dog' is to be the class of 'sks'"),
        (Prior(), concept("one two", "one one two two dog"), "'one two dog' is to be the class of 'one two'"),
    ],
)
def test_a_class_that_is_the_concept_or_nothing_is_refused(options, about, said):
    with pytest.raises(ConfigFault, match=said) as caught:
        class_prompt(options.prompt, about)
    assert "\n" not in str(caught.value)


def test_the_class_is_preserved_with_pictures_made_once(params, monkeypatch):
    plain = learnt(changed(params))
    prior, heard = changed(params, train={"prior": {"images": 2, "weight": 0.5}}), []
    monkeypatch.setattr(task, "encoded", lambda *told: heard.append(told) or encoded(*told))
    once = learnt(prior)
    assert once != plain
    (made,) = (path.parent for path in Path(".cache/images").rglob("manifest.json"))
    assert artifact.read(made, "pictures")["prompts"] == ["a photo of a star"]
    drawn = changed(params, sample={"images": 2, "seed": seed(prior.sample.seed, "class")})
    (files,) = sampler.sample(drawn, State(), [["a photo of a star"]])
    ((_, lessons, taught),) = heard
    assert [lesson.caption for lesson in lessons] == ["a photo of a sks star"] * 3 + ["a photo of a star"] * 2
    assert [lesson.image.tobytes() for lesson in lessons[taught:]] == [Image.open(f).tobytes() for f in files]

    def samples(*_, **__):
        raise AssertionError("sampled again")

    monkeypatch.setattr(type(params.family), "sample", samples)
    assert learnt(changed(params, train={"prior": {"images": 2, "weight": 0.5}, "checkpoint_every": 3})) == once


def test_the_class_counts_as_much_as_its_weight_says(params):
    """The first loss is that of the concept, and of the class the weight times the mean over its pictures."""

    def first(**prior) -> float:
        return learnt(changed(params, train={"steps": 1, "prior": {"images": 2, **prior} if prior else None}))[1].loss[
            0
        ]

    alone, full, quarter = first(), first(batch=2), first(batch=2, weight=0.25)
    assert full - alone > 0.01
    assert quarter - alone == pytest.approx(0.25 * (full - alone), rel=1e-3)
    options = changed(params, train={"prior": {"images": 2, "batch": 2, "weight": 0.5}}).train
    told = SimpleNamespace(options=options, words=(0,), step=0)
    rows = Training._rows(told, Material([{}] * 5, {}, [0, 0, 0, 1, 1], 3))
    assert [(row.image >= 3, row.prompt, row.weight) for row in rows] == [(False, 0, 0.5)] * 2 + [(True, 1, 0.25)] * 2


def test_pictures_of_several_sizes_are_learnt_together_each_with_its_frame(params):
    buckets = changed(params, prepare={"buckets": True, "bucket": 8})
    both = learnt(buckets, (32, 32), (40, 24), (24, 40))
    assert len(both[1].loss) == 4
    assert learnt(changed(params), (32, 32)) != learnt(changed(params, train={"conditioning": "source"}), (32, 32))


def test_rows_of_a_step_are_computed_size_by_size():
    images = [{"moments": torch.zeros(1, 2, 4, *size)} for size in ((4, 4), (2, 8), (4, 4), (4, 4))]
    rows = [Row(i, 0, i, 0.25) for i in range(4)]
    assert [[row.image for row in part] for part in alike(rows, images, 2)] == [[0, 2], [3], [1]]


def test_previews_come_from_step_0_on_and_change_nothing(params):
    plain = learnt(changed(params))
    previewed = changed(params, watch={"previews_every": 2}, train={"checkpoint_every": 3})

    def observe(learner, frozen):
        return previews.Previews(previewed, RUN, "01", learner, frozen, CONCEPT)

    assert learnt(previewed, observe=observe) == plain
    found = sorted(path.name for path in Path("previews/toy-objects/objects/0/naive/0/01").iterdir())
    assert found == [f"{step:06d}-{number:02d}.png" for step in (0, 2, 4) for number in (0, 1)]


def test_what_goes_wrong_in_watching_is_said_once_and_left_out(caplog):
    seen = []

    def breaks(step, losses):
        raise OSError("no space left")

    observe = previews.unharmed([breaks, lambda step, losses: seen.append(step)])
    for step in range(3):
        observe(step, None)
    assert seen == [0, 1, 2]
    assert caplog.text.count("no space left") == 1


def test_a_tracker_gets_every_loss_once(monkeypatch, params):
    logged, ended = [], []
    accelerator = SimpleNamespace(
        log=lambda values, step: logged.append((step, values["loss"])), end_training=lambda: ended.append(True)
    )
    monkeypatch.setattr(trackers, "_open", lambda *_: accelerator)
    tracked = params.model_copy(update={"watch": Watch(tracker="tensorboard")})
    with trackers.tracking(tracked, RUN, "01") as track:
        _, losses = learnt(changed(params), observe=lambda learner, frozen: track)
    assert logged == list(enumerate(losses.loss, 1))
    assert ended == [True]


def test_a_tracker_that_is_not_there_costs_a_warning(monkeypatch, params, caplog):
    monkeypatch.setattr("accelerate.Accelerator.trackers", [], raising=False)
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: [])
    tracked = params.model_copy(update={"watch": Watch(tracker="wandb")})
    with trackers.tracking(tracked, RUN, "01") as track:
        assert track is None
    assert "wandb" in caplog.text
