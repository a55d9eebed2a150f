"""From images of any shape to squares (`--fit`), with Pillow and NumPy alone.

`export --format space` copies this file.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

MAX_ASPECT_RATIO: Final = 64
"""Longer images are shortened to this many times their short side before they are resized."""

Color = tuple[int, int, int]


def padding_color(background: str) -> Color:
    """Return the color of padding, that of the background; black for `none`."""
    if background == "none":
        return 0, 0, 0
    red, green, blue = ImageColor.getrgb(background)[:3]
    return red, green, blue


def place_in_square(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of an image in the middle of a square it just fits in."""
    scale = side / max(width, height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    return (side - w) // 2, (side - h) // 2, w, h


def fit_whole(pixels: NDArray[np.uint8], side: int, color: Color | None) -> Image.Image:
    """Return a square with all of an image (H, W, 3): bilinear, antialiased.

    color: around it; None: squash it.
    """
    image = Image.fromarray(pixels)
    if color is None:
        return image.resize((side, side), Image.Resampling.BILINEAR)
    left, top, width, height = place_in_square(*image.size, side)
    square = Image.new("RGB", (side, side), color)
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return square


def shorten_strip(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the ends of a long strip: the center crop drops them, resized they may fill RAM."""
    height, width = pixels.shape[:2]
    longest = MAX_ASPECT_RATIO * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]
