"""Images to check an exported model on."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.data.folder import find_inference_images
from imgnet_mini.data.images import read_pixels
from imgnet_mini.data.transforms import EvalCrop, Normalize
from imgnet_mini.errors import DataError

_COUNT: Final = 16


@dataclass(frozen=True)
class CheckImages:
    """Images to check a model on, and where they are from.

    files: all images of the validation folder, most of which are not used.
    crops: (N, 3, S, S) float32, normalized.
    pictures: of the crops, (H, W, 3) uint8 each; none if they are not needed.
    """

    files: list[Path]
    crops: Tensor
    pictures: tuple[Tensor, ...]
    source: str


def load_check_images(
    val: Path, crop: EvalCrop, decoding: Decoding, *, img_size: int, keep_pictures: bool
) -> CheckImages:
    """Return some validation images, or random ones if there are none; broken ones are left out."""
    files: list[Path] = []
    with suppress(DataError):  # the folder may be elsewhere
        files = find_inference_images([val])
    crops: list[NDArray[np.uint8]] = []
    pictures = []
    source = f"images of {val}"
    for picture in _read(files, decoding):
        crops.append(np.array(crop(picture)))
        pictures += [torch.from_numpy(picture)] if keep_pictures else []
    if not crops:
        source = "random images"
        drawn = _draw(img_size)
        crops = [np.array(crop(picture)) for picture in drawn]
        pictures = [torch.from_numpy(picture) for picture in drawn if keep_pictures]
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    images = Normalize(torch.device("cpu"))(pixels).contiguous()
    return CheckImages(files, images, tuple(pictures), source)


def _read(files: list[Path], decoding: Decoding) -> Iterator[NDArray[np.uint8]]:
    for file in files[:: max(1, len(files) // _COUNT)][:_COUNT]:
        with suppress(DataError):
            yield read_pixels(file, decoding)


def _draw(img_size: int) -> list[NDArray[np.uint8]]:
    """Return smooth random images of several sizes, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_COUNT, 1, 3, 5, 5, generator=generator)
    smooth = [
        F.interpolate(image, size=(img_size + 5 * number, 2 * img_size), mode="bilinear")[0]
        for number, image in enumerate(coarse)
    ]
    return [(255 * image).to(torch.uint8).permute(1, 2, 0).numpy().copy() for image in smooth]
