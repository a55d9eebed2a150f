"""Images to check an exported model on."""

from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from imgnet_mini.data.batches import load_batches
from imgnet_mini.data.folder import find_inference_images
from imgnet_mini.data.transforms import EvalCrop, Normalize
from imgnet_mini.errors import DataError

_COUNT: Final = 16


def find_images(val: Path) -> list[Path]:
    """Return the images of a validation folder; none if it is missing: it may be elsewhere."""
    with suppress(DataError):
        return find_inference_images([val])
    return []


def load_check_images(val: Path, crop: EvalCrop, *, img_size: int) -> tuple[Tensor, str]:
    """Return normalized images and where they are from: validation, or random if it is missing.

    The images are (N, 3, S, S) float32.
    """
    files = find_images(val)
    chosen = files[:: max(1, len(files) // _COUNT)][:_COUNT]
    batches = load_batches(chosen, crop.load, batch_size=_COUNT, threads=1)
    found = [image for batch in batches for image in batch.images]
    pixels = torch.stack(found) if found else _random_images(img_size)
    source = f"images of {val}" if found else "random images"
    return Normalize(torch.device("cpu"))(pixels).contiguous(), source


def _random_images(img_size: int) -> Tensor:
    """Return smooth random images from a fixed seed: (N, 3, S, S) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_COUNT, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=img_size, mode="bilinear")
    return (255 * smooth).to(torch.uint8)
