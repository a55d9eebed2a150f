"""From an opened image to RGB pixels: bit depth, transparency and orientation.

Needs NumPy and Pillow alone: `export --format space` copies this file.
"""

from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that Pillow may open; some of its others start external programs, such as EPS."""

MAX_PIXELS: Final = 50_000_000
"""Larger images are refused: a few kilobytes can decode to gigabytes."""

UPRIGHT: Final = 1
"""The EXIF orientation of an image that is stored as it is to be seen."""

_TO_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_CLEAR_BITS: Final = 15
"""A 16-bit image with a value of this many bits uses all 16: one of 15 could not be told apart."""

_TIFF_BITS: Final = 258  # BitsPerSample


class PixelSettings(Protocol):
    """Settings that `Decoding` describes."""

    @property
    def exif_orientation(self) -> bool:
        """Rotate the image by its EXIF orientation."""

    @property
    def background(self) -> str:
        """Color behind a transparent image; none: ignore transparency."""

    @property
    def bit_depth(self) -> int | None:
        """Significant bits of deep values; None: as declared in the file."""


class BitDepthError(ValueError):
    """The values of an image have no known range."""


class _Depth(NamedTuple):
    """Bits per channel of a file, and whether its values are known to use them all."""

    bits: int
    is_known: bool


_SCALED: Final = _Depth(16, is_known=True)
"""That of a file whose values Pillow has scaled to 16 bits."""


def to_pixels(image: Image.Image, decoding: PixelSettings) -> NDArray[np.uint8]:
    """Convert an image to (H, W, 3) uint8.

    Raises:
        BitDepthError: its values have no known range.
    """
    depth = _file_depth(image)  # Pillow forgets it when it loads the pixels
    image.load()
    if image.mode.startswith("I"):
        flat = _scale_gray(image, depth, decoding.bit_depth)
    elif image.mode == "F":
        raise BitDepthError(
            "floating-point values without a known range; save it with 8 or 16 bits"
        )
    else:
        flat = image
    rgb = _flatten(flat, decoding.background)
    if depth.bits == 16 and flat is image:
        _check_color(image, depth, decoding.bit_depth)
    # Of a TIFF, which Pillow turns when it loads the pixels, the tag is gone now.
    orientation = read_orientation(image) if decoding.exif_orientation else UPRIGHT
    return turn_upright(np.array(rgb), orientation)


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 without one, or if the tags are damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged tags make Pillow raise anything; the pixels do not need them
        return UPRIGHT
    return orientation if orientation in _TO_UPRIGHT else UPRIGHT


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return (H, W, 3) as it is to be seen."""
    if orientation == UPRIGHT:
        return pixels
    return np.array(Image.fromarray(pixels).transpose(_TO_UPRIGHT[orientation]))


def _file_depth(image: Image.Image) -> _Depth:
    """Return the depth that the header tells; of an image in memory, that of its mode."""
    tiles = getattr(image, "tile", [])
    args = tiles[0][3] if tiles else None
    if image.format == "PPM" and isinstance(args, tuple) and args[-1] > 255:
        # Pillow scales by the largest value that the file names; 65535 is also its default.
        return _SCALED if args[-1] < 65535 else _Depth(16, is_known=False)
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))[0]
        return _Depth(bits, is_known=bits not in (16, 32))
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        return _Depth(32, is_known=False)
    is_deep = image.mode.startswith("I") or (image.format == "PNG" and ";16" in str(args))
    return _Depth(16 if is_deep else 8, is_known=not is_deep)


def _scale_gray(image: Image.Image, depth: _Depth, bits: int | None) -> Image.Image:
    """Return a gray image of deep values with 8 bits, which Pillow would clip at 255."""
    values = np.asarray(image)
    smallest, largest = int(values.min()), int(values.max())
    if bits is None or depth == _SCALED:
        bits = depth.bits
        is_unclear = depth.bits > 16 or largest.bit_length() < _CLEAR_BITS
        if is_unclear and largest and not depth.is_known:
            raise BitDepthError(_explain_unclear(depth.bits, largest))
    if smallest < 0:
        raise BitDepthError("values below 0 without a known range; save it with 8 or 16 bits")
    if largest.bit_length() > bits:
        raise BitDepthError(
            f"values from {smallest} to {largest}, which are not of {bits} bits: name their bits "
            "with --bit-depth, or save it with 8"
        )
    gray = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        alpha = Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8))
        return Image.merge("LA", (gray, alpha))
    return gray


def _check_color(image: Image.Image, depth: _Depth, bits: int | None) -> None:
    """Check that the upper 8 bits of each channel, which Pillow keeps, hold the picture."""
    if depth.is_known:
        return
    if bits not in (None, 16):
        raise BitDepthError(
            f"--bit-depth {bits} is for gray images, and of this one's 16 bits a channel only the "
            "upper 8 can be read: save it with 8"
        )
    if bits is None:
        extrema = image.getextrema()
        channels = extrema if isinstance(extrema[0], tuple) else (extrema,)
        largest = max(int(high) for _, high in channels)
        if largest.bit_length() < _CLEAR_BITS - 8:
            raise BitDepthError(_explain_unclear(16, 256 * largest + 255))


def _explain_unclear(bits: int, largest: int) -> str:
    used = max(8, largest.bit_length())
    return (
        f"{bits}-bit values without a known range, the largest {largest}: name the bits that they "
        f"use, such as --bit-depth {used}, or save it with 8"
    )


def _flatten(image: Image.Image, background: str) -> Image.Image:
    """Return an image in RGB, on a background where it is transparent."""
    if image.has_transparency_data:
        if background != "none":
            if image.mode in ("La", "RGBa"):  # colors that are multiplied by alpha already
                image = image.convert(image.mode.upper())
            front = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", front.size, background), front).convert(
                "RGB"
            )
        if image.mode == "P":
            image = image.convert("RGBA")
    return image.convert("RGB")
