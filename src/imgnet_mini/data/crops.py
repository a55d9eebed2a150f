"""The random resized crop: its numbers, and its pixels for one image or a batch on a device."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_TRIES: Final = 10
_LOG_RATIO: Final = math.log(4 / 3)
_LEFT, _TOP, _MIRROR = 2 * _TRIES, 2 * _TRIES + 1, 2 * _TRIES + 2
CROP_NUMBERS: Final = 2 * _TRIES + 3
"""How many numbers `sample_crop` may look at."""


class Crop(NamedTuple):
    """A part of an image, in pixels, and whether it is mirrored left to right."""

    left: int
    top: int
    width: int
    height: int
    hflip: bool


def sample_crop(
    numbers: Sequence[float], width: int, height: int, *, crop_scale_min: float, flip: bool
) -> Crop:
    """A crop of an image of this size, from numbers in [0, 1).

    The distribution is that of torchvision's RandomResizedCrop (Szegedy et al. 2015,
    arXiv:1409.4842, section 6): a share of the area from min_crop to 1, an aspect ratio from
    3/4 to 4/3, any place; where ten tries do not fit, the largest centre crop of such a ratio.
    """
    hflip = flip and numbers[_MIRROR] < 0.5
    for first in range(0, 2 * _TRIES, 2):
        area = width * height * (crop_scale_min + (1 - crop_scale_min) * numbers[first])
        ratio = math.exp(_LOG_RATIO * (2 * numbers[first + 1] - 1))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(numbers[_LEFT] * (width - w + 1))
            top = int(numbers[_TOP] * (height - h + 1))
            return Crop(left, top, w, h, hflip)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return Crop((width - w) // 2, (height - h) // 2, w, h, hflip)


def squash_crop(crop: Crop, width: int, height: int, side: int) -> Crop:
    """The same part of the image after it was squashed from width x height to side x side."""
    left, right = _squash(crop.left, crop.width, side / width, side)
    top, bottom = _squash(crop.top, crop.height, side / height, side)
    return Crop(left, top, right - left, bottom - top, crop.hflip)


def _squash(start: int, length: int, scale: float, side: int) -> tuple[int, int]:
    """Whole pixels, and at least one."""
    first = min(round(start * scale), side - 1)
    return first, max(first + 1, round((start + length) * scale))


def crop_image(pixels: NDArray[np.uint8], crop: Crop, size: int) -> Tensor:
    """Cut and resize one image, (H, W, 3) to (3, size, size) uint8: bilinear, antialiased."""
    part = torch.from_numpy(pixels)[
        crop.top : crop.top + crop.height, crop.left : crop.left + crop.width
    ]
    # Copied to one block of memory, torch's quickest kernel takes it.
    part = part.permute(2, 0, 1).unsqueeze(0).contiguous(memory_format=torch.channels_last)
    part = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)[0]
    return part.flip(2) if crop.hflip else part


def crop_batch(images: Tensor, crops: Tensor, size: int) -> Tensor:
    """Cut and resize a batch on its device, as `crop_image` does up to a grey level.

    A resize is two products with matrices of triangle weights, one per axis: work that a GPU
    does at its full speed, with nothing read back.

    images: (N, P, P, 3) uint8; crops: (N, 5) float32, rows of `Crop`; gives (N, 3, size, size)
    uint8.
    """
    count, side = images.shape[:2]
    dtype = torch.float16 if images.is_cuda else torch.float32
    left, top, width, height, hflip = crops.unsqueeze(2).unbind(1)
    position = torch.arange(size, device=images.device, dtype=torch.float32)
    column = torch.where(hflip > 0, size - 1 - position, position)
    across = _weights(column, left, width, side=side, dtype=dtype)
    down = _weights(position.expand(count, size), top, height, side=side, dtype=dtype)
    rows = torch.bmm(down, images.reshape(count, side, side * 3).to(dtype))
    rows = rows.view(count, size, side, 3).transpose(2, 3).reshape(count, size * 3, side)
    resized = torch.bmm(rows, across.transpose(1, 2)).view(count, size, 3, size)
    return resized.round_().clamp_(0, 255).to(torch.uint8).transpose(1, 2)


def _weights(
    position: Tensor, start: Tensor, length: Tensor, *, side: int, dtype: torch.dtype
) -> Tensor:
    """What each of `side` pixels adds to each of `size`: (N, size) positions to (N, size, side).

    start, length: (N, 1), the crop along this axis; pixels outside it add nothing.
    """
    count, size = position.shape
    scale = length / size
    centre = start + (position + 0.5) * scale - 0.5
    reach = scale.clamp(min=1)
    pixel = torch.arange(side, device=position.device, dtype=torch.float32)
    inside = ((pixel >= start) & (pixel < start + length)).to(dtype).unsqueeze(1)
    # These six passes over N x size x side numbers are what a GPU's time goes to; the lower
    # precision is exact enough near 0, and what is far away is cut off.
    weights = torch.empty(count, size, side, dtype=dtype, device=position.device)
    torch.sub((pixel / reach).unsqueeze(1), (centre / reach).unsqueeze(2), out=weights)
    weights = torch.addcmul(inside, inside, weights.abs_(), value=-1).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))
