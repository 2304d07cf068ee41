from pathlib import Path

import pytest
from PIL import Image

from stages.core.dataset import datasets
from stages.datasets.unlearn_canvas import ONLY_IN_60, STYLES, choose
from stages.runtime.faults import ConfigFault, InputFault

# The output of the reference code (arXiv 2410.04891), for the 60 styles and for the 50.
FROM_60 = [
    "Byzantine", "Palette_Knife", "Ink_Art", "Blossom_Season", "Artist_Sketch",
    "Winter", "Dadaism", "Dapple", "Meteor_Shower", "Pastel",
]  # fmt: skip
FROM_50 = [
    "Cartoon", "Rust", "Meteor_Shower", "Blossom_Season", "Artist_Sketch",
    "Winter", "Defoliation", "Early_Autumn", "Pastel", "Sketch",
]  # fmt: skip
OBJECTS = [
    "Butterfly", "Architectures", "Flowers", "Flame", "Statues", "Birds", "Human", "Bears", "Horses", "Towers",
]  # fmt: skip
NUMBERS = [
    [19, 17, 13, 15, 9], [12, 11, 20, 9, 2], [2, 17, 10, 4, 12], [20, 11, 7, 18, 2], [8, 15, 11, 10, 16],
    [18, 11, 16, 12, 20], [17, 4, 2, 14, 7], [2, 15, 17, 11, 14], [7, 16, 14, 4, 20], [17, 7, 16, 19, 10],
]  # fmt: skip
REFERENCES = [
    ("Cats", 1), ("Dogs", 4), ("Fishes", 13), ("Frogs", 11), ("Jellyfish", 5),
    ("Rabbits", 12), ("Sandwiches", 17), ("Sea", 1), ("Trees", 17), ("Waterfalls", 14),
]  # fmt: skip


@pytest.mark.parametrize(("styles", "chosen"), [(STYLES + ONLY_IN_60, FROM_60), (STYLES, FROM_50)])
def test_the_selection_is_that_of_the_reference(styles, chosen):
    training, references = choose(styles.split())
    assert list(training) == chosen
    assert list(training.values()) == [
        [(thing, number) for number in numbers] for thing, numbers in zip(OBJECTS, NUMBERS, strict=True)
    ]
    assert references == REFERENCES


def test_there_are_sixty_styles_or_fifty():
    assert len(set((STYLES + ONLY_IN_60).split())) == 60
    assert len(set(STYLES.split())) == 50


@pytest.fixture
def tree(tmp_path) -> Path:
    """The part of the dataset that is read, each picture in its own colour."""
    root = tmp_path / "styles"
    training, references = choose((STYLES + ONLY_IN_60).split())
    for style, choices in training.items():
        for thing, number in [*choices, *references]:
            (root / style / thing).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, len(thing), len(style))).save(root / style / thing / f"{number}.jpg")
    return root


def test_training_pictures_show_one_object_and_references_ten_others(tree):
    dataset = datasets.make("unlearn_canvas", {"root": str(tree)})
    assert dataset.domains() == {"styles": [style.lower() for style in FROM_60]}
    knife = dataset.concept("styles", "palette_knife")
    assert [picture.origin.relative_to(tree).as_posix() for picture in knife.training] == [
        f"Palette_Knife/Architectures/{number}.jpg" for number in (12, 11, 20, 9, 2)
    ]
    assert [picture.origin.relative_to(tree).as_posix() for picture in knife.references] == [
        f"Palette_Knife/{thing}/{number}.jpg" for thing, number in REFERENCES
    ]
    assert not {p.origin.parent for p in knife.training} & {p.origin.parent for p in knife.references}
    assert all(picture.source and picture.licence for picture in knife.training + knife.references)


def test_the_prompts_are_those_of_the_reference(tree):
    knife = datasets.make("unlearn_canvas", {"root": str(tree)}).concept("styles", "palette_knife")
    assert (knife.token, knife.noun) == ("palette knife", "")
    assert knife.training_prompt == "palette knife image of architectures"
    assert knife.prompts == tuple(
        f"palette knife image of {thing}" for thing in ("a wizard", "a policeman", "a santa hat", "a clock", "a mirror")
    )
    assert knife.plain_prompts[0] == "image of a wizard"


def test_a_missing_file_is_named(tree, tmp_path):
    dataset = datasets.make("unlearn_canvas", {"root": str(tree)})
    (tree / "Byzantine/Cats/1.jpg").unlink()
    with pytest.raises(ConfigFault, match=r"Byzantine/Cats/1\.jpg is missing"):
        dataset.concept("styles", "byzantine")
    with pytest.raises(ConfigFault, match="Did you mean 'winter'"):
        dataset.concept("styles", "wintre")
    with pytest.raises(ConfigFault, match="Did you mean 'styles'"):
        dataset.concept("style", "winter")
    (tree / "Winter/Cats/1.jpg").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "private.jpg")
    (tree / "Winter/Cats/1.jpg").symlink_to(tmp_path / "private.jpg")
    with pytest.raises(InputFault, match="a link out of"):
        dataset.concept("styles", "winter")
