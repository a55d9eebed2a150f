"""Images with a heat map over them."""

import io
from typing import Final

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

_OPACITY: Final = 0.7
"""Of the strongest place of a map."""
_UNSEEN: Final = 0.45
"""Brightness of what lies outside the region of the map."""
_QUALITY: Final = 88


Region = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle, as fractions of an image, which it may exceed."""


def draw_heat_map(image: Image.Image, heat: NDArray[np.float32], region: Region) -> Image.Image:
    """Return the image with a heat map over a region of it; the rest is darker.

    image: RGB, of any size; heat: (H, W), from 0 to 1.
    """
    width, height = image.size
    left, right = _pixels(region[0], region[2], width)
    top, bottom = _pixels(region[1], region[3], height)
    scaled = Image.fromarray(heat.astype(np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR
    )
    whole = np.asarray(image, np.float32)
    values = np.asarray(scaled.crop((-left, -top, width - left, height - top)), np.float32)
    values = values.clip(0, 1)[..., None]
    colors = 255 * colormaps["inferno"](values[..., 0])[..., :3]
    brightness = np.full((height, width, 1), _UNSEEN, np.float32)
    brightness[max(top, 0) : bottom, max(left, 0) : right] = 1
    pixels = brightness * whole + _OPACITY * values * (colors - whole)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def to_jpeg(image: Image.Image) -> bytes:
    """Return an image as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _pixels(start: float, end: float, size: int) -> tuple[int, int]:
    """Return first and end pixel of an interval of fractions, of one pixel or more."""
    first = min(round(start * size), size - 1)
    return first, max(first + 1, round(end * size))
