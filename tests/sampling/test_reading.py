"""Text that is longer than the text encoders read: named before anything runs, and noted with the results."""

import json
import logging
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from transformers import CLIPTokenizer

from stages import sample, train
from stages.core.params import load
from stages.core.runs import runs
from stages.evaluation.score_table import unread_texts
from stages.families.unet import text_encoders
from stages.families.unet.text_encoders import read_part
from stages.files import artifact
from stages.prepare import prepare
from stages.runtime.faults import ConfigFault, InputFault
from stages.sampling.reading import unread
from stages.start import start
from stages.tools.paint import paint
from stages.training.texts import check_texts
from tests.support.workspace import PROJECT, workspace

TEXT = "a photo of my Grandmother's café mug, red & blue 24 sks in the jungle teapot 日本 ocean"
WORDS = TEXT.split()


@pytest.fixture(scope="module", params=["toy", "hub"])
def tokenizer(request, standin, tmp_path_factory) -> Path:
    """The embedded base's tokenizer, and SDXL's in the files that hubs have: no tokenizer.json."""
    if request.param == "toy":
        return PROJECT / "data/world/base/tokenizer"
    model = json.loads((standin.path / "tokenizer/tokenizer.json").read_text("utf-8"))["model"]
    folder = tmp_path_factory.mktemp("hub")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    settings_ = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    return folder


def test_the_part_that_is_read_is_what_transformers_keeps(tokenizer):
    judge = CLIPTokenizer.from_pretrained(tokenizer)
    limit = judge.model_max_length
    assert limit == (32 if "world" in str(tokenizer) else 77)

    @given(some.lists(some.sampled_from(WORDS), max_size=limit).map(" ".join))
    @settings(max_examples=50, database=None)
    def check(prompt):
        kept = judge(prompt, truncation=True, max_length=limit, return_offsets_mapping=True)
        whole = judge(prompt, truncation=False)
        read = read_part(tokenizer, prompt)
        if kept.input_ids == whole.input_ids:
            assert read == prompt
        else:
            assert read == prompt[: max(end for _, end in kept["offset_mapping"])]
            assert len(read) <= len(prompt)  # equal where the last letter is several tokens, not all of which are read

    check()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A study of photos in the folders `mug` and `big red apple`, whose captions and prompts the toy reads in part."""
    folder = workspace(tmp_path_factory.mktemp("long"), 1, train={"steps": 1, "batch": 1}, sample={"plain": 1})
    for name in ("mug", "my_big_apple"):
        (folder / "photos" / name).mkdir(parents=True)
        shutil.copy(PROJECT / "docs/images/base-sheet.png", folder / "photos" / name / "1.png")
    return folder


REST = "in the jungle with a dog and a cat and a book and a house and a bus and a car and a fish and"
LONG, MORE = f"a photo of a {{}} {REST} a key", f"a photo of a {{}} {REST} a cup"


def study(place: Path, concept: str, prompts: list[str], caption: str = "") -> object:
    text = (place / "params.yaml").read_text("utf-8")
    folder = place / "photos" / concept
    (folder / "concept.yaml").write_text(json.dumps({"token": "sks", "noun": "cup", "prompts": prompts}))
    (folder / "1.txt").write_text(caption) if caption else (folder / "1.txt").unlink(missing_ok=True)
    from ruamel.yaml import YAML

    yaml = YAML()
    params = yaml.load(text)
    params |= {"source": "photos", "dataset": {"name": "folder"}, "sequences": {"objects": {"0": {"t01": concept}}}}
    with (place / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    return load()


def test_lost_words_are_named_before_and_noted_after(place, monkeypatch, caplog):
    monkeypatch.chdir(place)
    caption = f"the {{}} that stands on a table in the house of a person {REST} a key"
    params = study(place, "mug", [LONG, "a {}"], caption)
    caption = caption.replace("{}", "sks cup")
    sampled = [LONG.replace("{}", words) for words in ("sks cup", "cup")]
    expected = [caption, *sampled]
    lines = check_texts(params)
    assert len(lines) == len(expected)
    for text in expected:
        lost = unread(params.family, [text])[text]
        assert text.endswith(lost)
        assert any(line.startswith("objects/mug: ") and text in line and f"'{lost}'" in line for line in lines)
    (run,) = runs(params)
    with caplog.at_level(logging.WARNING):
        prepare(params, run.sequence, Namespace(task="01"))
        start(params, run, Namespace())
        train.train(params, run, Namespace(task="01"))
        sample.sample(params, run.sequence, Namespace(base=True, task=None))
    noted = unread_texts(params)
    assert list(noted) == sorted(expected)
    assert artifact.read(run.at("01") / "adapter", "adapter")["unread"].keys() == {caption}
    assert artifact.read(run.sequence.base / "images", "images")["unread"].keys() == set(sampled)
    assert all(any(text in record.getMessage() for record in caplog.records) for text in expected)


def test_prompts_that_differ_only_where_they_are_not_read_are_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    params = study(place, "my_big_apple", [LONG, MORE])
    with pytest.raises(ConfigFault, match=r"^my_big_apple: the prompts .* would give the same pictures.*Shorten"):
        check_texts(params)


def test_paint_names_lost_words_before_it_reads_anything(place, monkeypatch, caplog):
    monkeypatch.chdir(place)
    params, said = study(place, "mug", ["a {}"]), LONG.replace("{}", "mug")
    args = Namespace(key="objects/0/none/0", task="01", what="state", prompt=[said], to=Path("painted"))
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigFault, match="there is no run"):
        paint(params, None, args)
    assert f"'{unread(params.family, [said])[said]}' is ignored" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer/tokenizer.json", b"\xff"),
        ("tokenizer/tokenizer.json", b""),
        ("tokenizer/tokenizer_config.json", b"{}"),
        ("captions.txt", b"\xff"),
    ],
)
def test_a_damaged_file_that_is_read_before_the_base_is_checked_is_named(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(workspace(tmp_path / "work"))
    Path("data/world/base", name).write_bytes(content)
    params = load()
    text_encoders._tokenizer.cache_clear()  # another test's workspace had the same relative path
    with pytest.raises(InputFault, match=f"^data/world/base/{name}: "):
        (params.family.captions, check_texts(params))
