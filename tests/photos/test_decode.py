import io
import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from stages.core.params import Prepare
from stages.files.untrusted import list_folder, read_file
from stages.photos.decode import TURN, decode
from stages.runtime.faults import InputFault

LIMITS = Prepare(resolution=32)
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 48, height: int = 40, mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def scene() -> Image.Image:
    """Returns a picture that survives JPEG (smooth) and is different in every corner."""
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width: int, height: int, depth: int = 8, colour: int = 0, body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body or zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def refusal(data: bytes, limits: Prepare = LIMITS) -> str:
    with pytest.raises(InputFault) as caught:
        decode(data, limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("tag", [1, 3, 6, 8])
def test_photos_of_phones_are_read_upright(kind, tag):
    """HEIC and AVIF state the orientation in the container, and the EXIF tag repeats it: it must be undone once."""
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    upright = (
        scene() if tag == 1 else scene().transpose({3: TURN.ROTATE_180, 6: TURN.ROTATE_270, 8: TURN.ROTATE_90}[tag])
    )
    image, _ = decode(encoded(scene(), kind, quality=100, exif=exif.tobytes()), LIMITS)
    assert image.size == upright.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).max() < 10


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_limits_hold_for_photos_of_phones(kind):
    assert "max_megapixels" in refusal(
        encoded(Image.new("RGB", (1200, 1000)), kind), Prepare(resolution=32, max_megapixels=1)
    )
    assert "several" in refusal(encoded(scene(), kind, save_all=True, append_images=[noise(64, 48)]))
    assert decode(encoded(noise(mode="RGBA"), kind), LIMITS)[1] == ["transparent parts were made white"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"hello, this is text", b"\x00" * 100, b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n"]
)
def test_files_that_are_not_pictures_are_refused(data):
    assert "picture" in refusal(data) or "damaged" in refusal(data)


def test_other_formats_are_refused():
    assert "not a JPEG, PNG" in refusal(encoded(scene(), "EPS"))
    assert "not a JPEG, PNG" in refusal(encoded(scene(), "PPM"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(kind, share):
    data = encoded(noise(), kind)
    assert refusal(data[: int(len(data) * share)])


@pytest.mark.parametrize("position", [0.1, 0.35, 0.5, 0.75, 0.95])
def test_a_flipped_bit_in_a_png_is_refused(position):
    data = bytearray(encoded(noise(), "PNG"))
    data[int(len(data) * position)] ^= 4
    assert "damaged" in refusal(bytes(data))


def test_a_truncated_jpeg_that_passes_verify_is_refused():
    data = encoded(noise(200, 200), "JPEG")[:-2000]
    Image.open(io.BytesIO(data)).verify()
    assert "truncated" in refusal(data)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    assert "prepare.max_megapixels: 64" in refusal(png_of_size(15000, 15000))
    assert "prepare.max_megapixels: 64" in refusal(png_of_size(9000, 9000))  # for which Pillow itself would only warn
    assert "prepare.max_megapixels: 0.001" in refusal(
        encoded(noise(), "PNG"), Prepare(resolution=32, max_megapixels=0.001)
    )


def test_the_limit_can_be_higher_than_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encoded(noise(), "PNG"), LIMITS)[0].size == (48, 40)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_truncated_files_are_refused_even_if_pillow_was_told_to_load_them(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert refusal(encoded(noise(200, 200), "JPEG")[:-2000])


def test_a_text_chunk_that_expands_hugely_is_refused():
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b" " * (80 << 20), 9))
    data = encoded(noise(), "PNG")
    assert "damaged" in refusal(data[:33] + bomb + data[33:])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_are_refused_unless_first_frame_is_set(kind):
    first, second = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    data = encoded(first, kind, save_all=True, append_images=[second])
    assert "several pictures" in refusal(data)
    image, notes = decode(data, Prepare(resolution=32, first_frame=True))
    red, _, blue = image.getpixel((5, 5))
    assert red > 240
    assert blue < 15
    assert notes == ["first of several pictures"]


def test_floating_point_pixels_are_refused():
    floats = Image.fromarray(np.linspace(0, 9, 64, dtype=np.float32).reshape(8, 8))
    assert "its pixel format F is not supported" in refusal(encoded(floats, "TIFF"))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]), st.data())
def test_random_damage_gives_a_fault_or_a_picture(kind, data):
    content = bytearray(encoded(noise(24, 24), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    with suppress(InputFault):
        assert decode(bytes(content[:cut]), Prepare(resolution=32, max_megapixels=1))[0].mode == "RGB"


# --- what is corrected -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_upright(kind, orientation):
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene().transpose(turn[orientation]) if orientation > 1 else scene()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image, _ = decode(encoded(stored, kind, exif=exif, **options), LIMITS)
    assert np.array_equal(np.asarray(image), np.asarray(scene()))


def test_unreadable_exif_does_not_prevent_decoding():
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff" + b"\xff" * 40)
    assert decode(data, LIMITS)[0].size == scene().size


@pytest.mark.parametrize("byte_order", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(byte_order):
    values = np.array([[0, 128, 129, 257], [32768, 65407, 65406, 65535]], np.uint16)
    image, notes = decode(encoded(Image.fromarray(values), byte_order), LIMITS)
    assert np.asarray(image)[..., 0].tolist() == [[0, 0, 1, 1], [128, 255, 254, 255]]
    assert notes == ["16 bits per pixel scaled to 8"]


def test_16_bit_colour_is_scaled():
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 32896, 65535, 257, 514, 65278) for _ in range(2))
    image, _ = decode(png_of_size(2, 2, 16, 2, zlib.compress(rows)), LIMITS)
    assert np.asarray(image)[0].tolist() == [[0, 128, 255], [1, 2, 254]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_other_pixel_modes_become_rgb(mode):
    source = scene().convert(mode)
    image, notes = decode(encoded(source, "PNG"), LIMITS)
    assert np.array_equal(np.asarray(image), np.asarray(source.convert("RGB")))
    assert notes == []


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(mode):
    source = Image.new("RGBA", (20, 20), (255, 0, 0, 0) if mode != "LA" else (0, 0, 0, 0))
    source.paste((0, 0, 0, 255), (0, 0, 10, 20))
    image, notes = decode(encoded(source.convert(mode) if mode != "P" else source.quantize(), "PNG"), LIMITS)
    assert image.getpixel((15, 5)) == (255, 255, 255)
    assert image.getpixel((5, 5)) == (0, 0, 0)
    assert notes == ["transparent parts were made white"]


def test_a_transparent_colour_becomes_white():
    image, notes = decode(encoded(Image.new("RGB", (8, 8), (10, 20, 30)), "PNG", transparency=(10, 20, 30)), LIMITS)
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert notes == ["transparent parts were made white"]


def test_opaque_alpha_changes_nothing():
    source = scene().convert("RGBA")
    image, notes = decode(encoded(source, "PNG"), LIMITS)
    assert np.array_equal(np.asarray(image), np.asarray(scene()))
    assert notes == []


def test_cmyk_becomes_rgb_with_a_note():
    image, notes = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), LIMITS)
    red, green, blue = image.getpixel((8, 8))
    assert (red > 200, green < 60, blue < 60) == (True, True, True)
    assert notes == ["CMYK without a usable profile, its colours are a guess"]


def test_an_srgb_profile_changes_nothing_and_an_unusable_one_is_noted():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image, notes = decode(encoded(scene(), "PNG", icc_profile=srgb), LIMITS)
    assert notes == []
    assert np.array_equal(np.asarray(image), np.asarray(scene()))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    _, notes = decode(encoded(scene(), "PNG", icc_profile=lab), LIMITS)  # not a profile for RGB
    assert notes == ["its colour profile cannot be used and was ignored"]


def test_another_profile_changes_the_colours():
    image, notes = decode(
        encoded(Image.new("RGB", (8, 8), (200, 100, 50)), "PNG", icc_profile=swapped_profile()), LIMITS
    )
    assert notes == ["colours converted to sRGB"]
    assert image.getpixel((4, 4)) != (200, 100, 50)


def swapped_profile() -> bytes:
    """Returns an sRGB profile with another name, and with the columns of red and blue swapped."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = bytes(srgb).replace("sRGB".encode("utf-16-be"), "else".encode("utf-16-be")).replace(b"sRGB", b"else")
    return data.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")


def test_a_broken_profile_is_noted_and_ignored():
    image, notes = decode(encoded(scene(), "PNG", icc_profile=b"not a profile"), LIMITS)
    assert notes == ["its colour profile cannot be used and was ignored"]
    assert np.array_equal(np.asarray(image), np.asarray(scene()))


def test_the_first_picture_of_an_mpo_is_the_photo():
    data = encoded(Image.new("RGB", (40, 40), "red"), "MPO", save_all=True, append_images=[Image.new("L", (40, 40))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    image, notes = decode(data, LIMITS)
    assert image.getpixel((5, 5))[0] > 240
    assert notes == []


# --- files and folders -----------------------------------------------------------------------------------------------


def unreadable(path: Path, max_megabytes: float = 256) -> str:
    with pytest.raises(InputFault) as caught:
        read_file(path, max_megabytes, "prepare.max_megabytes")
    return str(caught.value)


def test_paths_that_are_not_files_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"x" * (1 << 20) + b"y")
    (tmp_path / "loop").symlink_to("loop")
    assert "not a regular file" in unreadable(tmp_path / "pipe")
    assert "not a regular file" in unreadable(Path("/dev/zero"))
    assert "empty" in unreadable(tmp_path / "empty")
    assert "prepare.max_megabytes: 1." in unreadable(tmp_path / "large", 1)
    assert "cannot be read" in unreadable(tmp_path / "loop")
    assert "cannot be read" in unreadable(tmp_path / "missing")
    assert unreadable(tmp_path)  # a folder


def test_a_folder_is_listed_by_name_without_hidden_and_system_files(tmp_path):
    for name in ("b", "a b", "-c", "é", "日本", ".hidden", "Thumbs.db"):
        (tmp_path / name).touch()
    assert [path.name for path in list_folder(tmp_path, tmp_path)] == ["-c", "a b", "b", "é", "日本"]


def test_the_order_does_not_depend_on_how_a_file_system_writes_umlauts(tmp_path):
    composed, decomposed = tmp_path / "nfc", tmp_path / "nfd"
    for folder, name in ((composed, "\u00e9"), (decomposed, "e\u0301")):
        folder.mkdir()
        for other in (name, "f", "z"):
            (folder / other).touch()
    first, second = ([path.name for path in list_folder(f, tmp_path)][:2] for f in (composed, decomposed))
    assert (first, second) == (["f", "z"], ["f", "z"])


def test_all_bad_names_and_links_are_listed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside.png"
    root.mkdir()
    outside.touch()
    (root / "fine.png").touch()
    (root / "inside.png").symlink_to(root / "fine.png")
    (root / "out.png").symlink_to(outside)
    (root / "up.png").symlink_to("../outside.png")
    (root / "loop").symlink_to("loop")
    (root / "line\nbreak.png").touch()
    (root / "escape\x1b[31m.png").touch()
    with open(os.fsencode(root) + b"/\xff.png", "wb"):
        pass
    with pytest.raises(InputFault) as caught:
        list_folder(root, root)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)
    assert sum("a link out of" in line for line in lines) == 3


def scans(size, count):
    """A progressive JPEG with `count` scans: each refines nothing and takes a few bytes, and as long as a picture."""
    data = encoded(Image.new("L", (size, size)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


@pytest.mark.parametrize(("size", "count"), [(64, 200), (7000, 20)])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(size, count):
    data = scans(size, count)
    assert len(data) < 1 << 20
    began = time.process_time()
    assert "scans, which takes too long to decode" in refusal(data)
    assert time.process_time() - began < 5


def test_an_ordinary_progressive_jpeg_is_decoded():
    data = encoded(noise(640, 480), "JPEG", progressive=True)
    assert 5 < data.count(b"\xff\xda") < 20
    assert decode(data, Prepare(resolution=32))[0].size == (640, 480)
