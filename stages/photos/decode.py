"""Decodes picture files from outside into complete, upright sRGB pixels; refuses or notes everything unusual."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from stages.runtime.faults import InputFault, first_line

if TYPE_CHECKING:
    from stages.core.params import Prepare

# Few parsers: a small attack surface. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
# The .heic of phones, by the brand in its head (ISO/IEC 23008-12); its reader is loaded for such a file alone.
HEIC = re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)
READABLE = "JPEG, PNG, WEBP, HEIC, AVIF, BMP, TIFF or GIF"
MOST_SCANS, SCANS_AT_LIMIT = 100, 12  # of a JPEG, and of one with as many pixels as are allowed; usual are 10
TURN = Image.Transpose
ORIENTATION = 0x0112  # the EXIF tag; its values from 2 on are undone by:
UPRIGHT = (
    TURN.FLIP_LEFT_RIGHT,
    TURN.ROTATE_180,
    TURN.FLIP_TOP_BOTTOM,
    TURN.TRANSPOSE,
    TURN.ROTATE_270,
    TURN.TRANSVERSE,
    TURN.ROTATE_90,
)
# Equivalent pixel modes that are converted before colour is handled.
SIMPLER_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}


def decode(data: bytes, limits: Prepare) -> tuple[Image.Image, list[str]]:
    """Decodes the first picture of a file to RGB, and returns it with notes on what was changed.

    JPEG, GIF and BMP have no checksums: a flipped bit among their pixels cannot be detected.

    Args:
        data: the file's content.
        limits: the section `prepare` of params.yaml.

    Raises:
        InputFault: it is not a picture, has too many pixels, is damaged, is an animation, or has no defined colours.
    """
    notes: list[str] = []
    try:
        with _guarded_pillow(limits.max_megapixels):
            image = Image.open(io.BytesIO(data), formats=_with_heif() if HEIC.match(data) else FORMATS)
            _refuse_many_scans(image, data, limits.max_megapixels)
            _refuse_animation(image, limits.first_frame, notes)
            if image.format == "PNG":
                # Decoding skips the checksums of pixels, and verify() does not decode: both are needed.
                Image.open(io.BytesIO(data), formats=FORMATS).verify()
            image.load()
            return _to_srgb(_turn_upright(image, notes), notes), notes
    except InputFault:
        raise
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp":  # HEIC or AVIF without its index
            raise InputFault("damaged: it is incomplete. Copy it again, or remove it.") from None
        raise InputFault(f"not a {READABLE} picture. Convert it, or remove it.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"prepare.max_megapixels: {limits.max_megapixels:g}"
        raise InputFault(f"too many pixels, over {limit}. Save it smaller or, in a project, raise the limit.") from None
    except Exception as error:  # for damaged files, Pillow's parsers raise almost anything
        raise InputFault(f"damaged: {first_line(error)}. Copy it again, or remove it.") from None


def _with_heif() -> tuple[str, ...]:
    """Lets Pillow open HEIC, which it cannot do alone."""
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


@contextmanager
def _guarded_pillow(max_megapixels: float) -> Iterator[None]:
    """Sets Pillow's global limits within the block: other libraries may have loosened them."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = int(max_megapixels * 1e6), False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _refuse_many_scans(image: Image.Image, data: bytes, max_megapixels: float) -> None:
    """A progressive JPEG of a few kilobytes can have hundreds of scans, each as long to decode as a whole picture."""
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans > MOST_SCANS or scans * image.width * image.height > SCANS_AT_LIMIT * max_megapixels * 1e6:
        raise InputFault(f"a progressive JPEG with {scans} scans, which takes too long to decode. Save it again.")


def _refuse_animation(image: Image.Image, first_frame: bool, notes: list[str]) -> None:
    # A phone's .jpg is often MPO: the photo, then a depth or brightness map. That is not an animation.
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    if not first_frame:
        raise InputFault("contains several pictures. Save one of them or, in a project, set prepare.first_frame: true.")
    notes.append("first of several pictures")


def _turn_upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # as above, but the pixels are intact, so the photo is usable
        notes.append("its EXIF cannot be read and was ignored")
        return image
    if orientation not in range(2, 9):
        return image
    notes.append("turned upright")
    return image.transpose(UPRIGHT[orientation - 2])


def _to_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    profile = image.info.get("icc_profile")
    colour, alpha = _split(image, notes)
    colour = _apply_profile(colour, profile, notes) if profile else colour
    if colour.mode == "CMYK":
        notes.append("CMYK without a usable profile, its colours are a guess")
    if colour.mode != "RGB":
        colour = colour.convert("RGB")
    if alpha is None or alpha.getextrema() == (255, 255):
        return colour
    notes.append("transparent parts were made white")
    white = Image.new("RGB", colour.size, "white")
    white.paste(colour, mask=alpha)
    return white


def _split(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Splits a picture into colour with 8 bits per channel (L, RGB or CMYK) and transparency, if it has any."""
    if image.mode.startswith("I;16"):
        notes.append("16 bits per pixel scaled to 8")
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)), None
    if image.mode in SIMPLER_MODES:
        image = image.convert(SIMPLER_MODES[image.mode])
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("L", "RGB") and "transparency" in image.info:
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    raise InputFault(f"its pixel format {image.mode} is not supported. Save it as RGB with 8 or 16 bits per channel.")


def _apply_profile(colour: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if colour.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return colour  # a conversion would only add rounding errors
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colour, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("its colour profile cannot be used and was ignored")
        return colour
    notes.append("colours converted to sRGB")
    return converted or colour
