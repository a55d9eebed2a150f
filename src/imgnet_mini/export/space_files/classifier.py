"""Classify image files with an ONNX model that imgnet-mini has exported.

The model file holds the names of its classes and the preprocessing of its images.
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from imgnet_mini.data.fit import fit_whole, shorten_strip
from imgnet_mini.data.pixels import FORMATS, MAX_PIXELS, BitDepthError, to_pixels

_THREADS: Final = 2
"""Cores of a small host, where ONNX Runtime would start a thread per core of the whole machine."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow raises above twice the limit
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(Exception):
    """An image cannot be used; its text is for whoever has chosen the image."""


class _Decoding(NamedTuple):
    """From an image file to RGB pixels; see `to_pixels`."""

    exif_orientation: bool
    background: str
    bit_depth: int | None


class Classifier:
    """A model file, ready to classify."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _THREADS
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        properties: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        steps: dict[str, Any] = json.loads(properties["preprocessing"])
        self._decoding = _Decoding(**{name: steps[name] for name in _Decoding._fields})
        self._fit: str = steps["fit"]
        self._padding = tuple(steps["padding"]) if self._fit == "pad" else None
        self._resize, self._crop = int(steps["resize"]), int(steps["center_crop"])
        self._mean = 255 * np.array(steps["mean"], np.float32)
        self._std = 255 * np.array(steps["std"], np.float32)
        self.arch = properties["arch"]
        self.labels = _distinct(json.loads(properties["names"]), json.loads(properties["classes"]))

    def classify(self, path: Path, top_k: int = 5) -> dict[str, float]:
        """Return the probabilities of the most likely classes of an image file, best first.

        Raises:
            ImageError: the image cannot be used.
        """
        pixels = np.asarray(self._resize_and_crop(_read_pixels(path, self._decoding)))
        images = ((pixels - self._mean) / self._std).transpose(2, 0, 1)[None]
        (logits,) = self._session.run(["logits"], {"images": np.ascontiguousarray(images)})
        exponents = np.exp(logits[0] - logits[0].max())
        probabilities = exponents / exponents.sum()
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return {self.labels[index]: float(probabilities[index]) for index in best}

    def _resize_and_crop(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """Resize the short side and crop the center, or fit the whole image in."""
        if self._fit != "crop":
            return fit_whole(pixels, self._crop, self._padding)
        image = Image.fromarray(shorten_strip(pixels))
        short = min(image.size)
        width, height = (int(self._resize * side / short) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self._crop) / 2), round((height - self._crop) / 2)
        return resized.crop((left, top, left + self._crop, top + self._crop))


def _read_pixels(path: Path, decoding: _Decoding) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8.

    Raises:
        ImageError: it cannot be decoded, or is too large.
    """
    if not path.stat().st_size:
        raise ImageError("The file is empty.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return to_pixels(image, decoding)
    except BitDepthError:
        raise ImageError(
            "The brightest value of this image is not known. Save it with 8 bits per channel."
        ) from None
    except UnidentifiedImageError:
        raise ImageError(
            "This is not an image that can be read. Use JPEG, PNG, WebP, GIF, BMP or TIFF."
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"The image has more than {MAX_PIXELS // 10**6} million pixels. Make it smaller."
        ) from None
    except Exception as error:  # damaged files make decoders raise anything
        raise ImageError("The image file is damaged or incomplete.") from error


def _distinct(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the names of the classes; two classes of one name also get their folder's."""
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({folder})"
        for name, folder in zip(names, classes, strict=True)
    ]
