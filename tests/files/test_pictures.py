import zlib

import numpy as np
import pytest
from PIL import Image

from stages.files import artifact
from stages.files.pictures import open_picture, open_png, to_png
from stages.runtime.faults import InputFault

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_any_png_is_opened_as_rgb(tmp_path, mode):
    picture = Image.fromarray(NOISE).convert(mode)
    (tmp_path / "a.png").write_bytes(to_png(picture))
    found = open_png(tmp_path / "a.png")
    assert found.mode == "RGB"
    assert found.tobytes() == picture.convert("RGB").tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


WHOLE = to_png(Image.fromarray(NOISE))
HEAD = WHOLE[:8]
BROKEN = {
    "empty": b"",
    "text": b"no picture",
    "cut in its pixels": WHOLE[: len(WHOLE) // 2],
    "cut in its head": WHOLE[:20],
    "a wrong checksum": WHOLE[:16] + b"\xff" + WHOLE[17:],
    "a chunk that is none": HEAD + chunk(b"IHDR", WHOLE[16:29]) + b"\0\0\0\5\0\0\0\0hello" + WHOLE[33:],
    "far too large": HEAD + chunk(b"IHDR", (1 << 20).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0") + WHOLE[33:],
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_png_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputFault, match=r"a\.png: cannot be read as PNG: damaged"):
        open_png(tmp_path / "a.png")


def test_every_single_cut_is_refused(tmp_path):
    for end in range(0, len(WHOLE) - 24, 7):  # after that come checksums and an empty chunk: no pixel is missing
        (tmp_path / "a.png").write_bytes(WHOLE[:end])
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


def test_a_picture_of_a_published_folder_is_compared_with_the_manifest(tmp_path):
    with artifact.publish(tmp_path / "x", "pictures", {}) as draft:
        (draft / "a.png").write_bytes(WHOLE)
        (draft / "b.png").write_bytes(WHOLE)
    assert open_picture(tmp_path / "x", "a.png").tobytes() == NOISE.tobytes()
    (tmp_path / "x" / "b.png").write_bytes(to_png(Image.fromarray(255 - NOISE)))
    (tmp_path / "x" / "c.png").write_bytes(WHOLE)
    for name in ("b.png", "c.png", "d.png"):
        with pytest.raises(InputFault, match="missing or damaged"):
            open_picture(tmp_path / "x", name)
    (tmp_path / "x" / artifact.MANIFEST).write_text("[]")
    with pytest.raises(InputFault, match="not a manifest"):
        open_picture(tmp_path / "x", "a.png")
