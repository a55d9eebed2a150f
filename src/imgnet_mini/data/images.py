"""Decoding of image files, and the detection of broken ones."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from imgnet_mini.config.data_settings import DEFAULT_DECODING, Decoding
from imgnet_mini.data.pixels import (
    FORMATS,
    MAX_PIXELS,
    UPRIGHT,
    read_orientation,
    to_pixels,
    turn_upright,
)
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_line

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

# Pillow checks the header, warns above this limit and raises above twice the limit.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# Pillow warns of damaged EXIF and other tags, which are not used here. Set once at import, since
# changing filters while threads decode is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_PIXEL_CHUNKS: Final = (b"tRNS", b"eXIf")
"""Optional chunks of a PNG that change its pixels."""
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


def read_pixels(path: Path, decoding: Decoding = DEFAULT_DECODING) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8.

    Raises:
        ImageError: see `decode`.
    """
    pixels, _ = decode(path, decoding)
    return pixels


def read_image(path: Path, decoding: Decoding = DEFAULT_DECODING) -> Image.Image:
    """Decode an image to RGB.

    Raises:
        ImageError: see `decode`.
    """
    return Image.fromarray(read_pixels(path, decoding))


def decode(
    path: Path, decoding: Decoding = DEFAULT_DECODING
) -> tuple[NDArray[np.uint8], str | None]:
    """Decode the first frame; also return the damage in a JPEG that can be decoded nevertheless.

    libjpeg-turbo decodes RGB and gray JPEG files, faster than Pillow, which decodes all others.

    Raises:
        ImageError: the file cannot be read, is not an image, is truncated, or is too large.
    """
    complaint, data = None, _read(path, _JPEG_START, _PNG_START)
    if data.startswith(_JPEG_START) and _is_plain_jpeg(data):
        try:
            pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
            orientation = _jpeg_orientation(data) if decoding.exif_orientation else UPRIGHT
            return turn_upright(pixels, orientation), None
        except ValueError as error:
            complaint = str(error)
    with _opened(path, _pixel_chunks(data)) as image:
        return to_pixels(image, decoding), complaint


def _read(path: Path, *formats: bytes) -> bytes:
    """Return the content of a file that starts so, and the first bytes of others.

    Raises:
        ImageError: the file is empty, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(len(_PNG_START))
            if data.startswith(formats):
                data += file.read()
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    if not data:
        raise ImageError(path, "the file is empty")
    return data


def _pixel_chunks(png: bytes) -> bytes | None:
    """Return a PNG without the chunks that its pixels do not need; None for another file.

    Pillow refuses an image for a long text or color profile, and unpacks them in vain.
    """
    if not png.startswith(_PNG_START):
        return None
    kept, start = [_PNG_START], len(_PNG_START)
    while start < len(png):
        header = png[start : start + 8].ljust(8, b"\0")
        length, kind = struct.unpack(">I4s", header)
        end = start + length + 12  # length, kind and checksum take 4 bytes each
        is_optional = bool(kind[0] & 0x20)  # a small letter
        if kind in _PIXEL_CHUNKS or not is_optional:
            kept.append(png[start:end])
        start = len(png) if kind == b"IEND" else end
    return b"".join(kept)


def _has_tags(jpeg: bytes) -> bool:
    """Return True if an APP1 segment, for EXIF or XMP, stands before the pixels of a JPEG."""
    place = len(_JPEG_START) - 1
    while jpeg[place : place + 1] == b"\xff" and jpeg[place : place + 2] != b"\xff\xda":
        if jpeg[place : place + 2] == b"\xff\xe1":
            return True
        is_fill = jpeg[place + 1 : place + 2] == b"\xff"
        place += 1 if is_fill else 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return False


def _jpeg_orientation(data: bytes) -> int:
    if not _has_tags(data):
        return UPRIGHT
    with suppress(ImageError), _opened(Path(), data) as image:
        return read_orientation(image)
    return UPRIGHT


def _is_plain_jpeg(data: bytes) -> bool:
    """Return True if simplejpeg decodes it correctly; it lacks rare kinds of color subsampling."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):
        return False
    return colors in ("YCbCr", "Gray") and height * width <= MAX_PIXELS


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height from the header, as stored.

    Raises:
        ImageError: see `decode`.
    """
    with _opened(path, _pixel_chunks(_read(path, _PNG_START))) as image:
        return image.size


def file_orientation(path: Path) -> int:
    """Return the EXIF orientation of a file, 1 to 8; 1 without one, or if it cannot be read."""
    with suppress(ImageError), _opened(path, _pixel_chunks(_read(path, _PNG_START))) as image:
        return read_orientation(image)
    return UPRIGHT


@contextmanager
def _opened(
    path: Path, content: bytes | None = None, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """Open an image without decoding it; any exception in the block becomes an ImageError.

    content: of the file, if it has been read.
    """
    try:
        file = path if content is None else BytesIO(content)
        with Image.open(file, formats=formats) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image") from error
    except Image.DecompressionBombError as error:
        size = str(error).partition(",")[0]  # ..., could be decompression bomb DOS attack
        raise ImageError(path, f"{size}; make it smaller") from error
    except Exception as error:  # damaged files make decoders raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(path, reason) from error


def is_image(path: Path) -> bool:
    """Return whether the content of a file of any name begins as an image does.

    TIFF is left out: raw photographs begin so too, and hold a thumbnail.
    """
    try:
        with _opened(path, formats=tuple(name for name in FORMATS if name != "TIFF")):
            return True
    except ImageError:
        return False


def find_problem(path: Path, decoding: Decoding = DEFAULT_DECODING) -> str | None:
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
    if not _looks_complete(start, end, decoding):
        try:
            decode(path, decoding)
        except ImageError as error:
            return error.reason
    return None


def _looks_complete(start: bytes, end: bytes, decoding: Decoding) -> bool:
    if start.startswith(_PNG_START):
        width, height, depth = struct.unpack(">IIB", start[16:25].ljust(9, b"\xff"))
        is_clear = depth <= 8 or decoding.bit_depth == 16  # else the values decide
        return end.endswith(_PNG_END) and is_clear and width * height <= MAX_PIXELS
    return start.startswith(_JPEG_START) and end.endswith(_JPEG_END) and _is_plain_jpeg(start)
