import os
from pathlib import Path

import pytest
from PIL import Image

from stages.core.dataset import datasets
from stages.runtime.faults import ConfigFault, InputFault

README = """# Styles

| folder | images | source | licence |
|---|---|---|---|
| ink_drawing | 6 | drawn by hand | CC0 |
"""


@pytest.fixture
def root(tmp_path) -> Path:
    for style in ("ink_drawing", "oil_painting"):
        (tmp_path / style).mkdir()
        for content in ("apple", "bicycle", "coffee_cup", "dog", "fish", "house"):
            Image.new("RGB", (8, 8)).save(tmp_path / style / f"{content}.png")
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def test_training_contents_are_not_references(root):
    dataset = datasets.make("style_folders", {"root": str(root)})
    assert dataset.domains() == {"styles": ["ink_drawing", "oil_painting"]}
    ink = dataset.concept("styles", "ink_drawing")
    assert [p.name for p in ink.training] == ["apple.png", "bicycle.png", "coffee_cup.png", "dog.png"]
    assert [p.name for p in ink.references] == ["fish.png", "house.png"]


def test_captions_name_the_content_and_prompts_ask_for_others(root):
    ink = datasets.make("style_folders", {"root": str(root)}).concept("styles", "ink_drawing")
    assert (ink.token, ink.noun, ink.training_prompt) == ("ink drawing", "", "ink drawing image")
    assert [p.caption for p in ink.training][2] == "ink drawing image of coffee cup"
    assert ink.prompts[1] == "ink drawing image of a policeman"
    assert ink.plain_prompts[1] == "image of a policeman"


def test_the_training_contents_can_be_chosen(root):
    options = {"root": str(root), "contents": ["house", "dog"], "training": 2}
    ink = datasets.make("style_folders", options).concept("styles", "ink_drawing")
    assert [p.name for p in ink.training] == ["dog.png", "house.png"]
    assert len(ink.references) == 4


def test_source_and_licence_come_from_the_readme(root):
    dataset = datasets.make("style_folders", {"root": str(root)})
    ink, oil = (dataset.concept("styles", name).training[0] for name in ("ink_drawing", "oil_painting"))
    assert (ink.source, ink.licence) == ("drawn by hand", "CC0")
    assert (oil.source, oil.licence) == ("", "")


def test_mistakes_are_refused(root):
    dataset = datasets.make("style_folders", {"root": str(root), "training": 6})
    with pytest.raises(InputFault, match="has 6 pictures, too few for 6 training pictures and at least one reference"):
        dataset.concept("styles", "ink_drawing")
    with pytest.raises(ConfigFault, match="Did you mean 'oil_painting'"):
        dataset.concept("styles", "oil_paint")
    with pytest.raises(ConfigFault, match="is not a folder"):
        datasets.make("style_folders", {"root": str(root / "nowhere")}).domains()


ROOT = Path(os.environ.get("PALIMPSEST_STYLES") or Path(__file__).parents[2] / "../shared/styles")


@pytest.mark.skipif(not ROOT.is_dir(), reason="no real styles: set PALIMPSEST_STYLES to their folder")
def test_the_six_real_styles_share_no_content_between_training_and_references():
    dataset = datasets.make("style_folders", {"root": str(ROOT)})
    styles = {name: dataset.concept("styles", name) for name in dataset.domains()["styles"]}
    assert len(styles) == 6
    emoji = [concept for name, concept in styles.items() if name.endswith("_emoji")]
    assert len({tuple(p.name for p in concept.training) for concept in emoji}) == 1
    for concept in styles.values():
        assert len(concept.training) == 4
        assert not {p.name for p in concept.training} & {p.name for p in concept.references}
        assert all(picture.source and picture.licence for picture in concept.training)
