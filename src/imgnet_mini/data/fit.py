"""From images of any shape to squares, by padding or squashing (`--fit`)."""

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageColor

from imgnet_mini.config.data_settings import Decoding

_MAX_ASPECT_RATIO: Final = 64
"""Longer images are shortened to this many times their short side before they are resized."""

Color = tuple[int, int, int]


def frame_size(fit: str, width: int, height: int) -> tuple[int, int]:
    """Return the size of what training crops are sampled from: the image, or its square."""
    side = max(width, height)
    return (width, height) if fit == "crop" else (side, side)


def padding_color(decoding: Decoding) -> Color:
    """Return the color of padding, that of the background; black for none."""
    if decoding.background == "none":
        return 0, 0, 0
    red, green, blue = ImageColor.getrgb(decoding.background)[:3]
    return red, green, blue


def place_in_square(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of an image in the middle of a square it just fits in."""
    scale = side / max(width, height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    return (side - w) // 2, (side - h) // 2, w, h


def pad_image(image: Image.Image, side: int, color: Color) -> Image.Image:
    """Return a square with the whole image in its middle: bilinear, antialiased."""
    left, top, width, height = place_in_square(*image.size, side)
    square = Image.new("RGB", (side, side), color)
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return square


def pad_pixels(pixels: NDArray[np.uint8], side: int, color: Color) -> NDArray[np.uint8]:
    """Return (side, side, 3) with the whole image in its middle: bicubic, antialiased."""
    left, top, width, height = place_in_square(pixels.shape[1], pixels.shape[0], side)
    square = np.full((side, side, 3), color, np.uint8)
    square[top : top + height, left : left + width] = resize_pixels(pixels, width, height)
    return square


def resize_pixels(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3), ignoring the aspect ratio: bicubic, antialiased."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)[0]
    return resized.permute(1, 2, 0).numpy()


def squash(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to (side, side, 3)."""
    return resize_pixels(pixels, side, side)


def shorten_strip(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the ends of a long strip: the center crop drops them, resized they may fill RAM."""
    height, width = pixels.shape[:2]
    longest = _MAX_ASPECT_RATIO * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]
