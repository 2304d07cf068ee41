"""Faces are learned only with a consent or a licence."""

import pytest
from PIL import Image

from stages.core.dataset import datasets
from stages.runtime.faults import InputFault


@pytest.fixture
def root(tmp_path):
    for name in ("anna", "robot"):
        (tmp_path / name).mkdir()
        for k in range(2):
            Image.effect_noise((64, 64), 40 + k).convert("RGB").save(tmp_path / name / f"{k}.jpg")
    return tmp_path


def faces(root):
    return datasets.make("faces", {"root": str(root)})


def test_a_face_with_consent_or_licence_is_a_person_and_its_pictures_carry_the_terms(root):
    (root / "anna/consent.txt").write_text("\n# Anna agreed to research on 2026-11-02.\nSigned paper in room 4.\n")
    (root / "robot/LICENCE.md").write_text("Drawn by us, CC0")
    assert faces(root).domains() == {"faces": ["anna", "robot"]}
    anna, robot = (faces(root).concept("faces", name) for name in ("anna", "robot"))
    assert anna.noun == robot.noun == "person"
    assert anna.training_prompt == f"a portrait of a {anna.token} person"
    assert len(anna.prompts) == 5
    assert {p.licence for p in anna.training} == {"consent: Anna agreed to research on 2026-11-02."}
    assert {p.licence for p in robot.training} == {"licence: Drawn by us, CC0"}
    assert [p.name for p in anna.training] == ["0.jpg", "1.jpg"]


def test_one_consent_may_hold_for_all_folders(root):
    (root / "consent.md").write_text("All agreed")
    assert {p.licence for p in faces(root).concept("faces", "robot").references} == {"consent: All agreed"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"anna: has neither a consent\.txt of the person nor, for a synthetic face, a licence\.txt"),
        (" \n#\n", r"consent\.txt: is empty\. Write down who agreed"),
        (b"", r"consent\.txt: the file is empty"),
        (b"\xff\xfe", r"consent\.txt: cannot be read as text"),
        ("agreed\u202e", r"consent\.txt: cannot be read as text \(contains the invisible character"),
    ],
)
def test_without_it_a_face_is_refused(root, content, said):
    (root / "robot/licence.txt").write_text("CC0")
    if content is not None:
        (root / "anna/consent.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputFault, match=said):
        faces(root).concept("faces", "anna")
    faces(root).concept("faces", "robot")
