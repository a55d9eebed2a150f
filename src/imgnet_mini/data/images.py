"""Decoding of image files, and the detection of broken ones."""

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
"""Formats that Pillow may open; some of its others start external programs, such as EPS."""

MAX_PIXELS: Final = 50_000_000
"""Larger images are refused: a few kilobytes can decode to gigabytes."""

# Pillow checks the header, warns above this limit and raises above twice the limit.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# Pillow warns of damaged EXIF and other tags, which are not used here. Set once at import, since
# changing filters while threads decode is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_HEADER_BYTES: Final = 2**16
"""Holds the header of most JPEG files, and costs no more than the disk's read-ahead."""


class ImageError(DataError):
    """An image file cannot be used; `reason` does not name the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # these are pickled when a worker raises it
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot decode {escape_line(str(self.path))}: {self.reason}"


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8: bit-identical to `read_image`, but faster.

    Raises:
        ImageError: see `read_image`.
    """
    pixels, _ = decode(path)
    return pixels


def decode(path: Path) -> tuple[NDArray[np.uint8], str | None]:
    """Decode an image; also return the damage inside a JPEG that Pillow decodes nevertheless.

    libjpeg-turbo decodes RGB and gray JPEG files, faster than Pillow, which decodes all others.

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
        raise ImageError(path, "the file is empty")
    if data.startswith(_JPEG_START) and _is_plain_jpeg(data):
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB"), None
        except ValueError as error:
            complaint = str(error)
    return np.array(read_image(path)), complaint


def _is_plain_jpeg(data: bytes) -> bool:
    """Return True if simplejpeg decodes it correctly; it lacks rare kinds of color subsampling."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):
        return False
    return colors in ("YCbCr", "Gray") and height * width <= MAX_PIXELS


def read_image(path: Path) -> Image.Image:
    """Decode an image to RGB: the first frame, without transparency, EXIF rotation ignored.

    Raises:
        ImageError: the file cannot be read, is not an image, is truncated, or is too large.
    """
    with _opened(path) as image:
        return to_rgb(image)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height from the header.

    Raises:
        ImageError: see `read_image`.
    """
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image without decoding it; any exception in the block becomes an ImageError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image") from error
    except Image.DecompressionBombError as error:
        size = str(error).partition(",")[0]  # ..., could be decompression bomb DOS attack
        raise ImageError(path, f"{size}; make it smaller") from error
    except Exception as error:  # damaged files make decoders raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(path, reason) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, scaling 16 bits to 8; raise ValueError for values of unknown range."""
    if image.mode.startswith("I"):  # Pillow would clip 16-bit values to 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("32-bit values without a known range; save it with 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point values without a known range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def find_problem(path: Path) -> str | None:
    """Return the problem of an image file, judged by its header and its end; None if it has none.

    A file without its format's end marker is decoded in full, since trailing bytes are harmless.
    Damage in the middle only shows when the file is decoded, and not in every JPEG.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
            file.seek(-min(16, file.seek(0, 2)), 2)
            end = file.read()
    except OSError as error:
        return error.strerror or str(error)
    if not start:
        return "the file is empty"
    if not _looks_complete(start, end):
        try:
            read_image(path)
        except ImageError as error:
            return error.reason
    return None


def _looks_complete(start: bytes, end: bytes) -> bool:
    if start.startswith(_PNG_START):
        width, height = struct.unpack(">II", start[16:24].ljust(8, b"\xff"))
        return end.endswith(_PNG_END) and width * height <= MAX_PIXELS
    return start.startswith(_JPEG_START) and end.endswith(_JPEG_END) and _is_plain_jpeg(start)
