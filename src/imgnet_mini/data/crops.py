"""Random crops: drawn, scaled to resized images, and cut out."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.data.fit import Color, place_in_square

_ATTEMPTS: Final = 10
_LOG_RATIO: Final = math.log(4 / 3)
_LEFT, _TOP, _HFLIP = 2 * _ATTEMPTS, 2 * _ATTEMPTS + 1, 2 * _ATTEMPTS + 2
CROP_NUMBERS: Final = 2 * _ATTEMPTS + 3
"""Random numbers per image that `sample_crop` takes."""


class Crop(NamedTuple):
    """A rectangle of an image, in pixels; hflip: flip it horizontally."""

    left: int
    top: int
    width: int
    height: int
    hflip: bool


def sample_crop(
    u: Sequence[float], width: int, height: int, *, crop_scale_min: float, flip: bool
) -> Crop:
    """Return the crop that numbers u in [0, 1) select from an image of this size.

    The distribution is that of torchvision's RandomResizedCrop (Szegedy et al. 2015,
    arXiv:1409.4842, section 6): area from `crop_scale_min` to 1 of the image, aspect ratio from
    3/4 to 4/3, any position; if ten attempts do not fit, the largest center crop of such a ratio.
    """
    hflip = flip and u[_HFLIP] < 0.5
    for first in range(0, 2 * _ATTEMPTS, 2):
        area = width * height * (crop_scale_min + (1 - crop_scale_min) * u[first])
        ratio = math.exp(_LOG_RATIO * (2 * u[first + 1] - 1))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(u[_LEFT] * (width - w + 1))
            top = int(u[_TOP] * (height - h + 1))
            return Crop(left, top, w, h, hflip)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return Crop((width - w) // 2, (height - h) // 2, w, h, hflip)


def sample_padded_crop(
    u: Sequence[float], width: int, height: int, *, crop_scale_min: float, flip: bool
) -> Crop:
    """Return a crop of the square that an image of this size is padded to.

    Its size is that of `sample_crop`; its position, one where it has as little padding as possible.
    """
    side = max(width, height)
    crop = sample_crop(u, side, side, crop_scale_min=crop_scale_min, flip=flip)
    x, y, *_ = place_in_square(width, height, side)
    left = _move_to_image(u[_LEFT], crop.width, x, width, side)
    return crop._replace(left=left, top=_move_to_image(u[_TOP], crop.height, y, height, side))


def _move_to_image(u: float, length: int, start: int, extent: int, side: int) -> int:
    """Return the start that u selects for an interval that holds all it can of the image's."""
    ends = start, start + extent - length
    low, high = max(0, min(ends)), min(side - length, max(ends))
    return low + int(u * (high - low + 1))


def scale_crop(crop: Crop, before: tuple[int, int], after: tuple[int, int]) -> Crop:
    """Return the crop's place in an image resized from one (width, height) to another."""
    left, right = _scale_interval(crop.left, crop.width, after[0] / before[0], after[0])
    top, bottom = _scale_interval(crop.top, crop.height, after[1] / before[1], after[1])
    return Crop(left, top, right - left, bottom - top, crop.hflip)


def _scale_interval(start: int, length: int, scale: float, side: int) -> tuple[int, int]:
    """Return first and end pixel of a scaled interval, of one pixel or more."""
    first = min(round(start * scale), side - 1)
    return first, max(first + 1, round((start + length) * scale))


def crop_image(pixels: NDArray[np.uint8], crop: Crop, size: int) -> Tensor:
    """Crop and resize one image, (H, W, 3) to (3, size, size) uint8: bilinear, antialiased."""
    part = _crop_to(pixels, crop, size, size)
    return part.flip(2) if crop.hflip else part


def _crop_to(pixels: NDArray[np.uint8], crop: Crop, width: int, height: int) -> Tensor:
    part = torch.from_numpy(pixels)[
        crop.top : crop.top + crop.height, crop.left : crop.left + crop.width
    ]
    # Contiguous memory gets torch's fastest kernel.
    part = part.permute(2, 0, 1).unsqueeze(0).contiguous(memory_format=torch.channels_last)
    return F.interpolate(part, size=(height, width), mode="bilinear", antialias=True)[0]


def crop_padded(pixels: NDArray[np.uint8], crop: Crop, size: int, color: Color) -> Tensor:
    """Crop and resize one image in the middle of its square: (3, size, size) uint8.

    crop: of the square, whose side is the longer one of the image; color: around the image.
    """
    height, width = pixels.shape[:2]
    left, top, *_ = place_in_square(width, height, max(width, height))
    x, right = max(crop.left, left), min(crop.left + crop.width, left + width)
    y, bottom = max(crop.top, top), min(crop.top + crop.height, top + height)
    shown = Crop(x - crop.left, y - crop.top, right - x, bottom - y, crop.hflip)
    place = scale_crop(shown, (crop.width, crop.height), (size, size))
    part = _crop_to(pixels, Crop(x - left, y - top, *shown[2:]), place.width, place.height)
    image = torch.tensor(color, dtype=torch.uint8).view(3, 1, 1).repeat(1, size, size)
    image[:, place.top : place.top + place.height, place.left : place.left + place.width] = part
    return image.flip(2) if crop.hflip else image


def crop_batch(images: Tensor, crops: Tensor, size: int) -> Tensor:
    """Crop and resize a batch on its device; equals `crop_image` within one gray level.

    The resize is a matrix product with triangle weights along each axis. Never blocks.

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
    """Return the weight of each input pixel in each output pixel: (N, size, side).

    position: (N, size), output pixels; start, length: (N, 1), the crop along this axis.
    """
    count, size = position.shape
    scale = length / size
    center = start + (position + 0.5) * scale - 0.5
    reach = scale.clamp(min=1)
    pixel = torch.arange(side, device=position.device, dtype=torch.float32)
    inside = ((pixel >= start) & (pixel < start + length)).to(dtype).unsqueeze(1)
    # These six passes over N x size x side numbers take most of the GPU's time, hence fp16: it is
    # precise enough near 0, and larger values are clamped.
    weights = torch.empty(count, size, side, dtype=dtype, device=position.device)
    torch.sub((pixel / reach).unsqueeze(1), (center / reach).unsqueeze(2), out=weights)
    weights = torch.addcmul(inside, inside, weights.abs_(), value=-1).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))
