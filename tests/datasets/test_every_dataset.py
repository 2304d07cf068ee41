"""Properties of every registered dataset. Concepts are tested if params.yaml names the dataset or it needs no files."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from stages.core.dataset import Concept, Dataset, Picture, datasets
from stages.core.params import load
from stages.runtime.faults import ConfigFault, Fault

PHOTOS = (Picture("0.png", Path("0.png")),)
MUG = Concept("mug", "sks", "mug", "a photo of a sks mug", ("a sks mug",), ("a mug",), PHOTOS, PHOTOS)
every_dataset = pytest.mark.parametrize("name", list(datasets.classes))


def dataset_of(name: str, tmp_path: Path) -> Dataset:
    params = load()
    if params.dataset.name == name:
        return params.data
    dataset = datasets.make(name, {"root": str(tmp_path)})
    try:
        all_concepts(dataset)
    except Fault:
        pytest.skip("needs files, and params.yaml names none")
    return dataset


def all_concepts(dataset: Dataset) -> list[tuple[str, Concept]]:
    return [(domain, dataset.concept(domain, name)) for domain, names in dataset.domains().items() for name in names]


@every_dataset
@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_wrong_source_is_a_one_line_fault_or_is_not_read(name, place, tmp_path):
    message = ""
    try:
        all_concepts(datasets.make(name, {"root": str(tmp_path / place)}))
    except Fault as fault:
        message = str(fault)
    assert not message or str(tmp_path) in message
    assert "\n" not in message


@every_dataset
def test_unknown_names_and_options_suggest_a_known_one(name, tmp_path):
    with pytest.raises(ConfigFault, match="unknown key 'no_such_option'"):
        datasets.make(name, {"root": str(tmp_path), "no_such_option": 1})
    dataset = dataset_of(name, tmp_path)
    domain = next(iter(dataset.domains()))
    concept = dataset.domains()[domain][0]
    with pytest.raises(ConfigFault, match=re.escape(f"Did you mean '{domain}'")):
        dataset.concept(f"{domain}x", concept)
    with pytest.raises(ConfigFault, match=re.escape(f"There is: {', '.join(sorted(dataset.domains()[domain]))}")):
        dataset.concept(domain, "no such concept")


@every_dataset
def test_concepts_have_the_names_they_are_listed_under(name, tmp_path):
    dataset = dataset_of(name, tmp_path)
    for domain, names in dataset.domains().items():
        assert re.fullmatch("[a-z0-9][a-z0-9_]*", domain), "it is part of paths and stage names"
        assert len({*names}) == len(names) > 0
        assert [dataset.concept(domain, each).name for each in names] == names


@every_dataset
def test_tokens_and_prompts_are_consistent(name, tmp_path):
    concepts = all_concepts(dataset_of(name, tmp_path))
    for domain in {domain for domain, _ in concepts}:
        tokens = [concept.token for other, concept in concepts if other == domain]
        assert len({*tokens}) == len(tokens), "two concepts of a sequence must not share a token"
    for _, concept in concepts:
        assert concept.token
        assert all(concept.token in prompt for prompt in (concept.training_prompt, *concept.prompts))
        assert len(concept.prompts) == len(concept.plain_prompts) > 0
        assert not any(
            re.search(rf"(?<!\w){re.escape(concept.token)}(?!\w)", prompt) for prompt in concept.plain_prompts
        )
        assert "{}" not in "".join((concept.training_prompt, *concept.prompts, *concept.plain_prompts))


@every_dataset
def test_pictures_have_names_and_can_be_opened(name, tmp_path):
    for _, concept in all_concepts(dataset_of(name, tmp_path))[:3]:
        for pictures in (concept.training, concept.references):
            assert pictures
            assert len({picture.name for picture in pictures}) == len(pictures)
            for picture in pictures:
                assert Path(picture.name).name == picture.name
                assert picture.origin.is_file() if isinstance(picture.origin, Path) else picture.origin().size


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "boot"}, "returned the concept boot"),
        ({"token": ""}, "has no token"),
        ({"prompts": ()}, "has 0 prompts and 1 plain ones"),
        ({"plain_prompts": ("a mug", "a red mug")}, "has 1 prompts and 2 plain ones"),
        ({"training_prompt": "a photo of a mug"}, "the token 'sks' is not in 'a photo of a mug'"),
        ({"prompts": "a sks mug", "plain_prompts": "a red mug"}, "the token 'sks' is not in 'a'"),
        ({"plain_prompts": ("a {} mug",)}, r"\{\} is left in 'a \{\} mug'"),
        ({"references": ()}, "has no reference pictures"),
        ({"training": (MUG.training * 2)}, "two of one name"),
        (None, "returned None, not a Concept"),
    ],
)
def test_what_no_stage_can_use_is_refused_when_it_is_loaded(change, said):
    class Mugs(Dataset):
        def domains(self):
            return {"objects": ["mug"]}

        def load(self, domain, name):
            return None if change is None else replace(MUG, **change)

    with pytest.raises(ConfigFault, match=rf"^dataset: objects: mug: .*{said}.*Mend its `load`\.$"):
        Mugs().concept("objects", "mug")
