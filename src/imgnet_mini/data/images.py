"""From one image file to pixels, or to what is wrong with it."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What Pillow may open; it also reads formats that start other programs, such as EPS."""

MAX_PIXELS: Final = 50_000_000
"""More are refused by the header: a few kilobytes can stand for gigabytes."""

# Pillow checks sizes before it takes memory for them, warns above this and fails at twice as much.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# It also warns of what it passes over in EXIF and other tags, of which nothing is used here. Once
# and for all: to set a filter while threads decode is not safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_HEADER_BYTES: Final = 2**16
"""Enough for the header of most JPEG files, and what a disk reads ahead anyway."""


class ImageError(DataError):
    """An image file cannot be used; `reason` does not name it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # what workers hand over is made anew from these
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot decode {escape_line(str(self.path))}: {self.reason}"


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8: what `read_image` gives, bit by bit, but sooner.

    Raises:
        ImageError: see `read_image`.
    """
    pixels, _ = decode(path)
    return pixels


def decode(path: Path) -> tuple[NDArray[np.uint8], str | None]:
    """The pixels, and what is wrong in the middle of a JPEG that Pillow reads all the same.

    libjpeg-turbo decodes JPEG files, without Pillow's detours and sooner; what it does not know as
    RGB or grey, and all else, is Pillow's.

    Raises:
        ImageError: see `read_image`.
    """
    complaint = None
    try:
        with path.open("rb") as file:
            data = file.read(len(_JPEG_START))
            if data == _JPEG_START:
                data += file.read()
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    if not data:
        raise ImageError(path, "it is empty")
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
    return colours in ("YCbCr", "Gray") and height * width <= MAX_PIXELS


def read_image(path: Path) -> Image.Image:
    """Decode an image to RGB: the first frame, without transparency, EXIF rotation ignored.

    Raises:
        ImageError: the file cannot be read, is no image, ends too early, or is too large.
    """
    with _opened(path) as image:
        return to_rgb(image)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, by the header alone.

    Raises:
        ImageError: see `read_image`.
    """
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet; what fails in the block is an error of it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image") from error
    except Image.DecompressionBombError as error:
        size = str(error).partition(",")[0]  # ..., could be decompression bomb DOS attack
        raise ImageError(path, f"{size}; make it smaller") from error
    except Exception as error:  # damaged files lead decoders to any
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(path, reason) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, scaling 16 bits to 8; a ValueError says which values have no known range."""
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
    """Say what is wrong with an image file, by its header and its end; None where nothing is.

    A file whose end is not as its format ends is decoded whole, so that trailing bytes do
    no harm. Damage in the middle is found in training, where the format has checksums (PNG)
    or the decoder stumbles over it; a JPEG may hide it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
            file.seek(-min(16, file.seek(0, 2)), 2)
            end = file.read()
    except OSError as error:
        return error.strerror or str(error)
    if not start:
        return "it is empty"
    if not _seems_whole(start, end):
        try:
            read_image(path)
        except ImageError as error:
            return error.reason
    return None


def _seems_whole(start: bytes, end: bytes) -> bool:
    if start.startswith(_PNG_START):
        width, height = struct.unpack(">II", start[16:24].ljust(8, b"\xff"))
        return end.endswith(_PNG_END) and width * height <= MAX_PIXELS
    return start.startswith(_JPEG_START) and end.endswith(_JPEG_END) and _is_plain_jpeg(start)
