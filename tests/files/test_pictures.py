import zlib

import numpy as np
import pytest
from PIL import Image

from stages.files import artifact
from stages.files.pictures import open_picture, open_png, to_png
from stages.runtime.faults import InputFault

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_every_pixel_mode_is_opened_as_rgb(tmp_path, mode):
    picture = Image.fromarray(NOISE).convert(mode)
    (tmp_path / "a.png").write_bytes(to_png(picture))
    opened = open_png(tmp_path / "a.png")
    assert opened.mode == "RGB"
    assert opened.tobytes() == picture.convert("RGB").tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


INTACT = to_png(Image.fromarray(NOISE))
HEAD = INTACT[:8]
BROKEN = {
    "empty": b"",
    "text": b"no picture",
    "truncated in its pixels": INTACT[: len(INTACT) // 2],
    "truncated in its header": INTACT[:20],
    "a wrong checksum": INTACT[:16] + b"\xff" + INTACT[17:],
    "an invalid chunk": HEAD + chunk(b"IHDR", INTACT[16:29]) + b"\0\0\0\5\0\0\0\0hello" + INTACT[33:],
    "far too large": HEAD + chunk(b"IHDR", (1 << 20).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0") + INTACT[33:],
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_png_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputFault, match=r"a\.png: cannot be read as PNG: damaged"):
        open_png(tmp_path / "a.png")


def test_a_png_truncated_anywhere_is_refused(tmp_path):
    for end in range(0, len(INTACT) - 24, 7):  # the rest is checksums and an empty chunk, no pixels
        (tmp_path / "a.png").write_bytes(INTACT[:end])
        with pytest.raises(InputFault):
            open_png(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP"])
def test_another_format_is_refused_whatever_its_name_says(tmp_path, kind):
    Image.fromarray(NOISE).save(tmp_path / "a.png", kind)
    with pytest.raises(InputFault, match="cannot be read as PNG"):
        open_png(tmp_path / "a.png")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputFault, match=r"a\.png: cannot be read as PNG: No such file"):
        open_png(tmp_path / "a.png")
    with pytest.raises(InputFault, match="cannot be read as PNG: Is a directory"):
        open_png(tmp_path)


def test_a_picture_of_a_published_folder_is_checked_against_the_manifest(tmp_path):
    with artifact.publish(tmp_path / "x", "pictures", {}) as draft:
        (draft / "a.png").write_bytes(INTACT)
        (draft / "b.png").write_bytes(INTACT)
    assert open_picture(tmp_path / "x", "a.png").tobytes() == NOISE.tobytes()
    (tmp_path / "x" / "b.png").write_bytes(to_png(Image.fromarray(255 - NOISE)))
    (tmp_path / "x" / "c.png").write_bytes(INTACT)
    for name in ("b.png", "c.png", "d.png"):
        with pytest.raises(InputFault, match="missing or damaged"):
            open_picture(tmp_path / "x", name)
    (tmp_path / "x" / artifact.MANIFEST).write_text("[]")
    with pytest.raises(InputFault, match="not a manifest"):
        open_picture(tmp_path / "x", "a.png")
