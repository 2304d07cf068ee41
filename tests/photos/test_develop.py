import io
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.core.dataset import Concept, Picture
from stages.core.params import Prepare
from stages.files import artifact
from stages.files.pictures import to_png
from stages.photos.develop import KnownPhotos, bucket, develop, earlier_photos, fit, open_photo, read_data
from stages.runtime.faults import InputFault

LIMITS = Prepare(resolution=32)


def noise(seed: int = 0, width: int = 48, height: int = 48) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def concept(training: list[Path], references: list[Path] | None = None, **captions: str) -> Concept:
    own = tuple(Picture(p.name, p, captions.get(p.stem), "me", "CC0") for p in training)
    others = own if references is None else tuple(Picture(p.name, p) for p in references)
    return Concept("mug", "sks", "mug", "a photo of sks mug", ("a sks mug",), ("a mug",), own, others)


def test_the_central_square_is_cropped():
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste("blue", (32, 0, 64, 32))
    image, notes, frame = fit(wide, Prepare(resolution=16))
    assert image.size == (16, 16)
    assert image.getpixel((8, 8)) == (0, 0, 255)
    assert notes == ["96x32 cropped to its central square"]
    assert frame == (32, 96, 0, 16, 16, 16)
    assert fit(wide.transpose(Image.Transpose.ROTATE_90), Prepare(resolution=16))[0].getpixel((8, 8)) == (0, 0, 255)


def test_a_small_photo_is_enlarged_with_a_note():
    assert fit(Image.new("RGB", (20, 20)), LIMITS)[1] == ["enlarged from 20 pixels"]


@settings(deadline=None)
@given(st.integers(16, 300), st.integers(16, 300))
def test_a_bucket_keeps_the_shape_and_enlarges_nothing(width, height):
    limits = Prepare(resolution=64, buckets=True, bucket=8)
    try:
        wide, high = bucket(width, height, limits)
    except InputFault:  # so narrow that one side is shorter than a bucket
        assert max(width, height) > 16 * min(width, height)
        return
    assert wide % 8 == high % 8 == 0
    assert wide * high <= 64 * 64
    assert wide <= width
    assert high <= height
    scale = max(wide / width, high / height)
    assert max(width * scale - wide, height * scale - high) < 8 * max(width / height, height / width)


def test_a_photo_in_a_bucket_has_its_frame():
    image, notes, frame = fit(noise(width=100, height=50), Prepare(resolution=32, buckets=True, bucket=8))
    assert image.size == (40, 16)
    assert frame == (50, 100, 2, 0, 16, 40)
    assert notes == ["100x50 cropped to its central 40x16"]
    with pytest.raises(InputFault, match="30x20 is less than a bucket of 64 pixels"):
        fit(noise(width=30, height=20), Prepare(resolution=1024, buckets=True))


def test_a_photo_of_the_right_size_keeps_its_pixels(tmp_path):
    exact = noise(width=32, height=32)
    photo = open_photo(save(tmp_path / "a.png", exact), LIMITS)
    assert photo.image.tobytes() == exact.tobytes()
    assert photo.notes == ()


def test_metadata_is_removed(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)  # latitude
    secret = {"exif": exif, "comment": b"secret", "dpi": (72, 72), "icc_profile": b"no profile"}
    photo = open_photo(save(tmp_path / "a.jpg", noise(), **secret), LIMITS)
    data = to_png(photo.image)
    assert not photo.image.info
    assert not Image.open(io.BytesIO(data)).info
    kinds = {
        data[at : at + 4]
        for at in range(len(data))
        if data[at : at + 4].isalpha() and data[at - 4 : at - 1] == b"\0\0\0"
    }
    assert kinds <= {b"IHDR", b"IDAT", b"IEND"}


def test_equal_photos_give_equal_bytes(tmp_path):
    path = save(tmp_path / "a.jpg", noise(), quality=80)
    assert to_png(open_photo(path, LIMITS).image) == to_png(open_photo(path.read_bytes(), LIMITS).image)


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_all_bad_files_are_listed_at_once(tmp_path, out):
    good, text, empty, cut, missing = (tmp_path / f"{name}.jpg" for name in ("good", "text", "empty", "cut", "missing"))
    save(good, noise())
    text.write_text("hello")
    empty.touch()
    cut.write_bytes(save(tmp_path / "whole.jpg", noise(1, 300, 300)).read_bytes()[:-500])
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputFault) as caught:
        develop(concept([good, text, empty, cut, missing, tmp_path / "pipe.jpg"]), LIMITS, out, KnownPhotos())
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        str(p) for p in (text, empty, cut, missing, tmp_path / "pipe.jpg")
    ]
    assert all(line.endswith(".") for line in lines)


def test_references_that_are_training_pictures_are_stored_once(tmp_path, out):
    first, second = save(tmp_path / "1.png", noise(1)), save(tmp_path / "2.png", noise(2))
    developed = develop(concept([first, second]), LIMITS, out, KnownPhotos())
    assert developed.pictures["references"] == developed.pictures["training"]
    assert [path.name for path in artifact.files_of(out)] == ["00.png", "01.png"]
    assert developed.pictures["training"][1] == {
        "file": "training/01.png",
        "name": "2.png",
        "caption": None,
        "source": "me",
        "licence": "CC0",
        "notes": [],
        "sha256_of_source": artifact.sha256(second),
        "frame": [48, 48, 0, 0, 32, 32],
    }


def test_other_references_are_stored_separately(tmp_path, out):
    first, second = save(tmp_path / "1.png", noise(1)), save(tmp_path / "2.png", noise(2))
    developed = develop(concept([first], [second]), LIMITS, out, KnownPhotos())
    assert [entry["file"] for entry in developed.pictures["references"]] == ["references/00.png"]


def test_references_of_original_size_are_stored_separately_and_noted_once(tmp_path, out):
    paths = [save(tmp_path / "1.png", noise(1, 64, 40)), save(tmp_path / "2.png", noise(2))]
    (tmp_path / "3.png").write_bytes(paths[0].read_bytes())
    mug = concept([*paths, tmp_path / "3.png"], **{"1": "without the word"})
    limits = LIMITS.model_copy(update={"references": "original"})
    developed = develop(mug, limits, out, KnownPhotos())
    training, references = developed.pictures["training"], developed.pictures["references"]
    assert [entry["file"] for entry in references] == [f"references/{i:02d}.png" for i in range(3)]
    assert references[0]["frame"] == [40, 64, 0, 0, 40, 64]
    assert Image.open(out / "references/00.png").tobytes() == noise(1, 64, 40).tobytes()
    assert [e["sha256_of_source"] for e in references] == [e["sha256_of_source"] for e in training]
    notes = ["1.png: its caption lacks the token 'sks'", "3.png: the same file as 1.png"]
    assert developed.warnings == notes
    (tmp_path / "2.png").write_text("hello")
    with pytest.raises(InputFault) as caught:
        develop(mug, limits, out, KnownPhotos())
    assert len(str(caught.value).splitlines()) == 1


def test_duplicates_are_noted(tmp_path, out):
    original = noise(1, 64, 64)
    paths = [
        save(tmp_path / "1.png", original),
        tmp_path / "2.png",
        save(tmp_path / "3.jpg", original.resize((50, 50))),
    ]
    paths[1].write_bytes(paths[0].read_bytes())
    paths.append(save(tmp_path / "4.png", noise(2)))
    notes = [entry["notes"] for entry in develop(concept(paths), LIMITS, out, KnownPhotos()).pictures["training"]]
    assert notes == [[], ["the same file as 1.png"], ["looks the same as 1.png"], []], "one note each, on the first"


def test_duplicates_in_other_tasks_cause_warnings_only(tmp_path, out):
    path = save(tmp_path / "1.png", noise(1))
    before = earlier_photos([concept([path, tmp_path / "broken.png"])], LIMITS)
    developed = develop(concept([path]), LIMITS, out, before)
    assert developed.warnings == ["1.png: the same file as mug/1.png"]
    assert developed.pictures["training"][0]["notes"] == []


def test_a_caption_without_the_token_is_noted(tmp_path, out):
    paths = [save(tmp_path / "1.png", noise(1)), save(tmp_path / "2.png", noise(2))]
    made = develop(concept(paths, **{"1": "a mug on a desk", "2": "a sks mug on a desk"}), LIMITS, out, KnownPhotos())
    assert [entry["notes"] for entry in made.pictures["training"]] == [["its caption lacks the token 'sks'"], []]
    assert made.pictures["training"][1]["caption"] == "a sks mug on a desk"


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> Path:
    drawn = tuple(Picture(f"{i}.png", partial(noise, i)) for i in range(3))
    mug = Concept("mug", "sks", "mug", "a photo of sks mug", ("a sks mug",), ("a mug",), drawn[:2], drawn[1:])
    with artifact.publish(tmp_path / "data", "data", {"position": 1}) as draft:
        draft.note(pictures=develop(mug, LIMITS, draft.path, KnownPhotos()).pictures)
    return tmp_path / "data"


def test_written_data_is_read_back(data):
    facts, training, references = read_data(data)
    assert facts["position"] == 1
    assert [image.tobytes() for image in training] == [fit(noise(i), LIMITS)[0].tobytes() for i in (0, 1)]
    assert [image.tobytes() for image in references] == [fit(noise(i), LIMITS)[0].tobytes() for i in (1, 2)]
    assert [entry["file"] for entry in facts["pictures"]["references"]] == ["training/01.png", "references/01.png"]


def test_a_flipped_bit_is_detected(data):
    path = data / "training" / "00.png"
    damaged = bytearray(path.read_bytes())
    damaged[50] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputFault, match=r"training/00\.png: damaged"):
        read_data(data)


@pytest.mark.parametrize("file", ["../../secret.png", "/etc/passwd", "manifest.json", 3])
def test_a_manifest_cannot_name_other_files(data, file):
    facts = json.loads((data / "manifest.json").read_text())
    facts["pictures"]["training"][0]["file"] = file
    resign(data, facts)
    with pytest.raises(InputFault):
        read_data(data)


def resign(folder: Path, facts: dict) -> None:
    """Forges a valid digest for the changed manifest."""
    facts = {key: value for key, value in facts.items() if key not in ("digest", "files", "kind", "schema", "parents")}
    with artifact.publish(folder.parent / "other", "data", facts) as draft:
        for path in artifact.files_of(folder):
            (draft / path.relative_to(folder)).parent.mkdir(exist_ok=True)
            (draft / path.relative_to(folder)).write_bytes(path.read_bytes())
    (folder / "manifest.json").write_bytes((folder.parent / "other" / "manifest.json").read_bytes())
