import os
from pathlib import Path

import pytest
from PIL import Image

from stages.core.dataset import datasets
from stages.datasets.shared.names import identify, legible, rare_word
from stages.runtime.faults import ConfigFault, Fault, InputFault


@pytest.fixture
def root(tmp_path) -> Path:
    for concept, names in {"mug": ("1.PNG", "2.jpg"), "my-dog": ("a b.webp", "-c.png")}.items():
        (tmp_path / "photos" / concept).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (8, 8)).save(tmp_path / "photos" / concept / name)
    return tmp_path / "photos"


def folder(root: Path, **options):
    return datasets.make("folder", {"root": str(root), **options})


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def fault_of(root: Path, concept: str = "mug", domain: str = "objects", **options) -> str:
    with pytest.raises(Fault) as caught:
        folder(root, **options).concept(domain, concept)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


# --- what is read ----------------------------------------------------------------------------------------------------


def test_a_folder_is_a_concept(root):
    dataset = folder(root)
    assert list(dataset.domains()) == ["objects"]
    mug = dataset.concept("objects", "mug")
    assert [p.name for p in mug.training] == ["1.PNG", "2.jpg"]
    assert mug.references == mug.training
    assert (mug.noun, mug.token) == ("mug", rare_word("mug"))
    assert mug.training_prompt == f"a photo of a {mug.token} mug"
    assert mug.prompts[0] == f"a photo of a {mug.token} mug on the beach"
    assert mug.plain_prompts[0] == "a photo of a mug on the beach"


def test_names_with_special_characters_get_a_plain_id(root):
    _, dog = folder(root).domains()["objects"]
    assert dog == identify("my-dog")
    assert dog.startswith("my_dog_")
    concept = folder(root).concept("objects", dog)
    assert concept.noun == "my dog"
    assert [p.name for p in concept.training] == ["-c.png", "a b.webp"]


@pytest.mark.parametrize(
    "name", ["Mug", "my mug", "каша", "é", "a" * 80, "-x", "_x", "..x", "$(rm -rf)", "'", "🙂", "a%2e"]
)
def test_ids_are_safe_in_paths_and_stage_names(name):
    assert identify(name).isascii()
    assert identify(name).replace("_", "").isalnum()
    assert identify(name) == identify(name).lower()
    assert len(identify(name)) <= 64
    assert identify(name) != identify(name + "x")


def test_ids_do_not_depend_on_how_a_file_system_writes_umlauts():
    assert identify("caf\u00e9") == identify("cafe\u0301")
    assert identify("my_mug") == "my_mug"
    assert identify("my__mug") != "my_mug"


def test_two_names_that_differ_only_in_encoding_are_refused(root):
    picture(root / "caf\u00e9" / "1.png")
    picture(root / "cafe\u0301" / "1.png")
    assert "same name as" in fault_of(root)


def test_adding_a_folder_changes_no_token(root):
    before = folder(root).concept("objects", "mug").token
    for name in ("aaa", "mua", "zzz"):
        picture(root / name / "1.png")
    assert folder(root).concept("objects", "mug").token == before
    assert len({rare_word(f"concept {i}") for i in range(50)}) == 50


def test_domains_are_folders_of_concepts(tmp_path):
    picture(tmp_path / "objects" / "mug" / "1.png")
    picture(tmp_path / "styles" / "sepia" / "1.png")
    (tmp_path / "styles" / "README.md").write_text("hello")
    assert folder(tmp_path).domains() == {"objects": ["mug"], "styles": ["sepia"]}
    assert folder(tmp_path).concept("styles", "sepia").name == "sepia"


def test_references_have_their_own_folder(root):
    picture(root / "mug" / "references" / "1.png")
    mug = folder(root).concept("objects", "mug")
    assert [p.origin for p in mug.references] == [root / "mug" / "references" / "1.png"]
    assert len(mug.training) == 2


def test_captions_name_the_concept(root):
    (root / "mug" / "1.txt").write_text("\ufeffa {} on a desk\n", "utf-8")
    (root / "mug" / "2.TXT").write_text("[trigger] in {weird} {0.__class__} light", "utf-8")
    first, second = folder(root, tokens={"mug": "sks"}).concept("objects", "mug").training
    assert first.caption == "a sks mug on a desk"
    assert second.caption == "sks mug in {weird} {0.__class__} light"


def test_concept_yaml_overrides_the_defaults(root):
    (root / "mug" / "concept.yaml").write_text(
        "token: sks\nnoun: ''\ntraining_prompt: a {} picture\n"
        "prompts: ['{} cat', 'a  {} dog']\nsource: me\nlicence: CC0\n"
    )
    mug = folder(root, tokens={"mug": "zwz"}).concept("objects", "mug")
    assert (mug.token, mug.noun, mug.training_prompt) == ("sks", "", "a sks picture")
    assert mug.prompts == ("sks cat", "a  sks dog")
    assert mug.plain_prompts == ("cat", "a dog")
    assert [(p.source, p.licence) for p in mug.training] == [("me", "CC0")] * 2


def test_templates_are_filled_not_formatted(root):
    mug = folder(root, templates=["{} {weird} {0.__class__}"], tokens={"mug": "sks"}).concept("objects", "mug")
    assert mug.prompts == ("sks mug {weird} {0.__class__}",)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_concept_without_pictures_is_refused(root):
    (root / "mug" / "1.PNG").unlink()
    (root / "mug" / "2.jpg").unlink()
    assert "mug: has no pictures" in fault_of(root)
    (root / "my-dog" / "references").mkdir()
    assert "references: has no pictures" in fault_of(root, identify("my-dog"))


def test_roots_without_concepts_are_refused(root, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is not a folder" in fault_of(tmp_path / "missing")
    assert "is not a folder" in fault_of(tmp_path / "a\0b")
    assert "contains no concepts" in fault_of(tmp_path / "empty")
    picture(root / "stray.png")
    assert "stray.png: is beside" in fault_of(root)


def test_a_concept_whose_folder_is_missing_is_named_with_that_folder(root):
    with pytest.raises(ConfigFault) as caught:
        folder(root).check("objects", "teapot", "sequences.objects.0.t03: ")
    assert str(caught.value).startswith("sequences.objects.0.t03: the dataset has no concept 'teapot'. There is: ")
    assert str(caught.value).endswith(f" Put its photos into {root / 'teapot'}, or leave it out.")


def test_unknown_names_suggest_a_known_one(root):
    assert "Did you mean 'mug'" in fault_of(root, "mag")
    assert "Did you mean 'objects'" in fault_of(root, domain="objets")
    with pytest.raises(ConfigFault, match="Did you mean 'mug'"):
        folder(root, tokens={"mag": "sks"}).domains()


@pytest.mark.parametrize("name", ["../mug", "/etc", "..", ".", "mug/../../x", "mug\0"])
def test_names_cannot_leave_the_root(root, name):
    assert "has no concept" in fault_of(root, name)
    assert "has no domain" in fault_of(root, "mug", name)


def test_links_cannot_leave_the_root(root, tmp_path):
    picture(tmp_path / "private" / "1.png")
    (root / "mug" / "3.png").symlink_to(tmp_path / "private" / "1.png")
    assert "mug/3.png: a link out of" in fault_of(root)
    (root / "mug" / "3.png").unlink()
    (root / "linked").symlink_to(tmp_path / "private")
    assert "linked: a link out of" in fault_of(root)
    (root / "linked").unlink()
    (root / "mug" / "1.txt").symlink_to("/etc/hostname")
    assert "1.txt: a link out of" in fault_of(root)
    (root / "mug" / "1.txt").unlink()
    (root / "mug" / "references").symlink_to("references")
    assert "references: a link out of" in fault_of(root)


def test_the_root_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "linked").symlink_to(root)
    assert folder(tmp_path / "linked").concept("objects", "mug").training


def test_names_with_control_characters_are_refused(root):
    os.rename(root / "mug" / "1.PNG", root / "mug" / "1\n.png")
    message = fault_of(root)
    assert "1\\n.png" in message
    assert "\n" not in message


def test_other_files_count_as_pictures_and_stray_entries_are_listed(root):
    (root / "mug" / "notes.pdf").write_text("no picture")
    assert "notes.pdf" in [p.name for p in folder(root).concept("objects", "mug").training]
    (root / "mug" / "older").mkdir()
    (root / "mug" / "3.txt").write_text("a {}")
    (root / "mug" / "README.txt").write_text("about these")
    assert len(fault_of(root).splitlines()) == 2


def test_pipes_are_refused_without_waiting(root):
    os.mkfifo(root / "mug" / "1.txt")
    assert "not a regular file" in fault_of(root)
    os.remove(root / "mug" / "1.txt")
    os.mkfifo(root / "mug" / "concept.yaml")
    assert "is not a regular file" in fault_of(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"", "empty"),
        (b"a {} \x00", r"U\+0000"),
        ("a {} \u202egnp".encode(), r"U\+202E"),
        (b"a" * 10_001, "10001 characters"),
        (b"a" * (2 << 20), "2.0 MB, over 1 MB"),
    ],
)
def test_misleading_captions_are_refused(root, text, message):
    (root / "mug" / "1.txt").write_bytes(text)
    with pytest.raises(InputFault, match=rf"1\.txt: .*{message}"):
        folder(root).concept("objects", "mug")


@pytest.mark.parametrize("text", ["a\0", "a\ud800", "a\x1b[31m", "a\nb", "a\u2066b", "a" * 10_001])
def test_misleading_prompts_are_refused(root, text):
    with pytest.raises(ConfigFault, match=r"dataset folder: templates\.0"):
        folder(root, templates=[f"{{}} {text}"])
    with pytest.raises(ValueError):
        legible(text)


def test_words_of_any_script_are_legible():
    for text in ("日本の猫", "گربه‌ها", "👩‍🎨", "café", "a {weird} 50% 'cat'"):
        assert legible(text) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": []}, "templates"),
        ({"templates": ["a cat"]}, "no {} where the concept goes"),
        ({"training": "a cat"}, "no {} where the concept goes"),
        ({"tokens": {"mug": "two words"}}, "tokens.mug"),
        ({"tokens": {"mug": ""}}, "tokens.mug"),
        ({"tokns": {}}, "Did you mean 'tokens'"),
    ],
)
def test_wrong_options_are_refused(root, options, message):
    with pytest.raises(ConfigFault, match=message):
        folder(root, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokn: sks", r"concept.yaml:1: unknown key 'tokn'. Did you mean 'token'"),
        ("token: 3\ntokn: sks", r"concept.yaml:2: unknown key 'tokn'"),
        ("source: me\ntoken: 3", r"concept.yaml:2: token: .* found 3"),
        ("token: sks\ntoken: zwz", "duplicate key"),
        ("prompts: [a cat]", "no {} where the concept goes"),
        ("noun: &a x", "anchors"),
        ('noun: "a\\0b"', r"U\+0000|special characters|control"),
        ('noun: "\\ud800"', "concept.yaml"),
        ("[]", "expected sections"),
        ("", "the file is empty"),
    ],
)
def test_concept_yaml_is_strict(root, text, message):
    (root / "mug" / "concept.yaml").write_text(text)
    with pytest.raises(ConfigFault, match=message) as caught:
        folder(root).concept("objects", "mug")
    assert "\n" not in str(caught.value)


def test_a_misleading_folder_name_needs_a_noun(root):
    picture(root / "a\u202eb" / "1.png")
    assert "give a noun in concept.yaml" in fault_of(root, identify("a\u202eb"))


# --- what other programs put beside photos ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "noun"), [("10_mug", "mug"), ("3_my_dog", "my dog"), ("42", "42"), ("4_4", "4 4")])
def test_the_number_of_repeats_in_a_folders_name_is_no_word(root, name, noun):
    picture(root / name / "1.png")
    concept = folder(root).concept("objects", identify(name))
    assert (concept.noun, concept.token) == (noun, rare_word(identify(name)))


def test_masks_are_not_trained_on_and_noted(root):
    for name in ("1-masklabel.png", "2_mask.jpg", "other_mask.png"):
        picture(root / "mug" / name)
    mug = folder(root).concept("objects", "mug")
    assert [p.name for p in mug.training] == ["1.PNG", "2.jpg", "other_mask.png"]
    assert [p.notes for p in mug.training] == [
        ("its mask 1-masklabel.png is not used",),
        ("its mask 2_mask.jpg is not used",),
        (),
    ]


def test_a_caption_belongs_to_its_picture_however_umlauts_are_written(root):
    picture(root / "mug" / "caf\u00e9.png")
    (root / "mug" / "cafe\u0301.txt").write_text("a {} in a café", "utf-8")
    mug = folder(root).concept("objects", "mug")
    assert [p.caption for p in mug.training if p.name.startswith("caf")] == [f"a {mug.token} mug in a café"]
