"""From one image file to pixels, or to what is wrong with it."""

from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from imgnet_mini.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What Pillow may open; it also reads formats that start other programs, such as EPS."""

_MAX_PIXELS = 2**26
"""A larger image is left to Pillow, which refuses those that would fill the memory."""

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8: what `read_image` gives, bit by bit, but sooner.

    Raises:
        DataError: see `read_image`.
    """
    pixels, _ = decode(path)
    return pixels


def decode(path: Path) -> tuple[NDArray[np.uint8], str | None]:
    """The pixels, and what is wrong in the middle of a JPEG that Pillow reads all the same.

    libjpeg-turbo decodes JPEG files, without Pillow's detours and sooner; what it does not know as
    RGB or grey, and all else, is Pillow's.

    Raises:
        DataError: see `read_image`.
    """
    complaint = None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot decode {path}: {error.strerror or error}") from error
    if data.startswith(_JPEG_START) and _is_plain_jpeg(data):
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB"), None
        except ValueError as error:
            complaint = str(error)
    return np.array(read_image(path)), complaint


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether simplejpeg can be trusted with it; rare ways to sample colours it does not know."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):
        return False
    return colours in ("YCbCr", "Gray") and height * width <= _MAX_PIXELS


def read_image(path: Path) -> Image.Image:
    """Decode an image to RGB: the first frame, without transparency, EXIF rotation ignored.

    Raises:
        DataError: the file cannot be read, is no image, or ends too early.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image") from error
    except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot decode {path}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to white instead of scaling them
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its 32-bit values have no known range; save it with 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its floating-point values have no known range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def find_problem(path: Path) -> str | None:
    """Say what is wrong with an image file, reading its two ends only; None where nothing is.

    A file whose end is not as its format ends is decoded whole, so that trailing bytes do
    no harm. Damage in the middle is found in training, where the format has checksums (PNG)
    or the decoder stumbles over it; a JPEG may hide it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            file.seek(-min(16, file.seek(0, 2)), 2)
            end = file.read()
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    if not start:
        return f"{path} is empty"
    whole = (start.startswith(_JPEG_START) and end.endswith(_JPEG_END)) or (
        start.startswith(_PNG_START) and end.endswith(_PNG_END)
    )
    if not whole:
        try:
            read_image(path)
        except DataError as error:
            return str(error)
    return None
