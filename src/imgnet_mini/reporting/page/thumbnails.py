"""Small images that a page carries within itself."""

import base64
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from imgnet_mini.errors import DataError

PIXELS = 176
"""Side of a thumbnail; pages show them at up to two thirds of it, so that they stay crisp."""

_QUALITY = 80


def make_thumbnails(
    images: Iterable[str], val_dir: Path, read_image: Callable[[Path], Image.Image]
) -> dict[str, str]:
    """Image path to data URI, of those that can still be read.

    images: paths relative to `val_dir`; read_image: decodes a file to RGB.
    """
    thumbnails = {}
    for image in dict.fromkeys(images):
        try:
            pixels = read_image(val_dir / image)
        except DataError:
            continue
        thumbnails[image] = to_data_uri(ImageOps.fit(pixels, (PIXELS, PIXELS)))
    return thumbnails


def to_data_uri(image: Image.Image) -> str:
    """A JPEG of the pixels alone: neither comments nor other notes of the file go along."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
