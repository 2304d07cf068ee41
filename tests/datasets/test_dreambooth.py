import os
import random
from pathlib import Path

import pytest
from PIL import Image

from stages.core.dataset import datasets
from stages.core.params import Prepare
from stages.datasets.dreambooth import choose, read_classes, read_credits
from stages.files.pictures import to_png
from stages.photos.develop import earlier_photos, open_photo
from stages.runtime.faults import ConfigFault, InputFault

# The output of the reference code (arXiv 2410.04891): subject, token, class.
CHOSEN = [
    ("colorful_sneaker", "sks", "sneaker"),
    ("fancy_boot", "zwz", "boot"),
    ("backpack", "sbu", "backpack"),
    ("bear_plushie", "uwu", "stuffed animal"),
    ("candle", "pdw", "candle"),
    ("can", "twt", "can"),
    ("pink_sunglasses", "zsn", "glasses"),
    ("berry_bowl", "ofl", "bowl"),
    ("red_cartoon", "psq", "cartoon"),
    ("teapot", "cws", "teapot"),
]
ORDERS = {
    0: [8, 9, 2, 6, 4, 5, 3, 1, 10, 7],
    5: [3, 4, 2, 1, 9, 8, 7, 6, 5, 10],
    10: [6, 3, 8, 2, 9, 5, 4, 7, 1, 10],
    42: [8, 4, 3, 9, 6, 7, 10, 5, 1, 2],
}
CLASSES = """Classes

subject_name,class
backpack,backpack
backpack_dog,backpack
bear_plushie,stuffed animal
berry_bowl,bowl
can,can
candle,candle
cat,cat
cat2,cat
clock,clock
colorful_sneaker,sneaker
dog,dog
dog2,dog
dog3,dog
dog5,dog
dog6,dog
dog7,dog
dog8,dog
duck_toy,toy
fancy_boot,boot
grey_sloth_plushie,stuffed animal
monster_toy,toy
pink_sunglasses,glasses
poop_emoji,toy
rc_car,toy
red_cartoon,cartoon
robot_toy,toy
shiny_sneaker,sneaker
teapot,teapot
vase,vase
wolf_plushie,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
"""
CREDITS = """DreamBooth Dataset - References and Licenses

Owners:
Somebody

backpack:
(credit: https://unsplash.com/@laurachouette)
00: https://unsplash.com/photos/McufHC16mNg
01:  https://unsplash.com/photos/9w8FA2Wwe9s
03: Same as 01, but shifted

bear_plushie: Photos taken by Nataniel Ruiz
red_cartoon: Art by Isabel Arduz (credit: https://www.instagram.com/x) - all permission to distribute secured.

Licenses

Unsplash
All unsplash.com images have the Unsplash license copied below:
backpack: not a credit
"""


@pytest.fixture
def small(tmp_path) -> Path:
    return write_subjects(tmp_path / "dataset")


def write_subjects(root: Path) -> Path:
    """Writes the ten subjects with one photo each, without the other twenty."""
    for subject, _, _ in CHOSEN:
        (root / subject).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / subject / "00.jpg")
    (root / "prompts_and_classes.txt").write_text(CLASSES)
    (root / "references_and_licenses.txt").write_text(CREDITS)
    return root


def test_the_ten_subjects_are_those_of_the_reference():
    assert len(read_classes(CLASSES)) == 30
    assert len(set(read_classes(CLASSES).values())) == 15
    assert choose(read_classes(CLASSES)) == [(subject, kind) for subject, _, kind in CHOSEN]


def test_their_tokens_and_nouns_are_those_of_the_reference(small):
    dataset = datasets.make("dreambooth", {"root": str(small)})
    assert dataset.domains() == {"objects": [subject for subject, _, _ in CHOSEN]}
    concepts = [dataset.concept("objects", subject) for subject, _, _ in CHOSEN]
    assert [(concept.name, concept.token, concept.noun) for concept in concepts] == CHOSEN


@pytest.mark.parametrize("order", ORDERS)
def test_the_orders_are_those_of_the_reference(order):
    random.Random(order).shuffle(numbers := list(range(1, 11)))  # as its code does
    assert numbers == ORDERS[order]


def test_the_prompts_are_those_of_the_reference(small):
    bear = datasets.make("dreambooth", {"root": str(small)}).concept("objects", "bear_plushie")
    assert bear.training_prompt == "a photo of uwu stuffed animal"
    assert bear.prompts == (
        "a uwu stuffed animal in a purple wizard outfit",
        "a uwu stuffed animal in a police outfit",
        "a uwu stuffed animal wearing a santa hat",
        "a uwu stuffed animal in a jail",
        "a uwu stuffed animal looking into a mirror",
    )
    assert bear.plain_prompts[3] == "a stuffed animal in a jail"
    assert bear.references == bear.training


def test_credits_are_read_per_photo():
    credits = read_credits(CREDITS, read_classes(CLASSES))
    assert set(credits) == {"backpack", "bear_plushie", "red_cartoon"}
    assert credits["backpack"] == (
        "credit: https://unsplash.com/@laurachouette",
        {
            "00": "https://unsplash.com/photos/McufHC16mNg",
            "01": "https://unsplash.com/photos/9w8FA2Wwe9s",
            "03": "Same as 01, but shifted",
        },
    )
    assert credits["bear_plushie"] == ("Photos taken by Nataniel Ruiz", {})


def test_licences_go_with_the_photos(small):
    dataset = datasets.make("dreambooth", {"root": str(small)})
    backpack, bear, cartoon = (
        dataset.concept("objects", n).training[0] for n in ("backpack", "bear_plushie", "red_cartoon")
    )
    assert backpack.source.startswith(
        "https://unsplash.com/photos/McufHC16mNg, credit: https://unsplash.com/@laurachouette,"
    )
    assert backpack.licence.startswith("Unsplash License")
    assert bear.source.startswith("Photos taken by Nataniel Ruiz, DreamBooth dataset")
    assert (bear.licence, cartoon.licence) == ("CC-BY-4.0", "CC-BY-4.0")


def test_a_missing_file_is_named(small):
    dataset = datasets.make("dreambooth", {"root": str(small)})
    (small / "can" / "00.jpg").unlink()
    with pytest.raises(ConfigFault, match=r"dataset/can contains no \.jpg files"):
        dataset.concept("objects", "can")
    with pytest.raises(ConfigFault, match="Did you mean 'teapot'"):
        dataset.concept("objects", "teapod")
    with pytest.raises(ConfigFault, match=r"prompts_and_classes\.txt is missing"):
        datasets.make("dreambooth", {"root": str(small / "can")}).domains()


def test_a_link_out_of_the_dataset_is_refused(small, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "private.jpg")
    (small / "can" / "01.jpg").symlink_to(tmp_path / "private.jpg")
    with pytest.raises(InputFault, match="a link out of"):
        datasets.make("dreambooth", {"root": str(small)}).concept("objects", "can")


# --- the dataset itself ----------------------------------------------------------------------------------------------

ROOT = Path(os.environ.get("PALIMPSEST_DREAMBOOTH") or Path(__file__).parents[2] / "../shared/dreambooth/dataset")
needs_photos = pytest.mark.skipif(
    not ROOT.is_dir(), reason="no DreamBooth photos: set PALIMPSEST_DREAMBOOTH to their folder"
)


@needs_photos
def test_all_54_photos_can_be_used():
    dataset = datasets.make("dreambooth", {"root": str(ROOT)})
    concepts = [dataset.concept("objects", subject) for subject, _, _ in CHOSEN]
    assert [len(concept.training) for concept in concepts] == [5, 6, 6, 5, 5, 6, 6, 6, 4, 5]
    photos = [
        open_photo(picture.origin, Prepare(resolution=64)) for concept in concepts for picture in concept.training
    ]
    assert all(photo.image.size == (64, 64) for photo in photos)
    assert not [note for photo in photos for note in photo.notes]
    kinds = [Image.open(picture.origin).format for concept in concepts for picture in concept.training]
    assert kinds.count("MPO") == 21


@needs_photos
def test_none_of_them_counts_as_a_duplicate():
    dataset = datasets.make("dreambooth", {"root": str(ROOT)})
    subjects = ("red_cartoon", "backpack", "can")
    for subject in subjects:
        known = earlier_photos(
            [dataset.concept("objects", other) for other in subjects if other != subject], Prepare(resolution=64)
        )
        for picture in dataset.concept("objects", subject).training:
            photo = open_photo(picture.origin, Prepare(resolution=64))
            assert known.duplicates(photo) == []
            known.add(picture.name, photo.sha256, photo.dhash)


@needs_photos
def test_a_photo_gives_the_same_bytes_every_time():
    picture = datasets.make("dreambooth", {"root": str(ROOT)}).concept("objects", "candle").training[0]
    first, second = (to_png(open_photo(picture.origin, Prepare(resolution=64)).image) for _ in range(2))
    assert first == second


@needs_photos
def test_every_photo_has_a_source():
    dataset = datasets.make("dreambooth", {"root": str(ROOT)})
    for subject in dataset.domains()["objects"]:
        for picture in dataset.concept("objects", subject).training:
            assert (
                "unsplash.com/photos/" in picture.source or "taken by" in picture.source or "Art by" in picture.source
            )
            assert picture.licence.startswith("Unsplash" if "unsplash" in picture.source else "CC-BY")
