"""Crops of training, evaluation and test-time augmentation, and normalization of batches."""

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import ten_crop

from imgnet_mini.config.data_settings import DEFAULT_DECODING, DataConfig, Decoding
from imgnet_mini.data.images import read_pixels

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet's channel statistics in units of uint8, as in torchvision's reference training."""

_MAX_ASPECT_RATIO: Final = 64
"""Longer images are shortened to this many times their short side before they are resized."""

_TEN_CROP_MARGIN: Final = 5 / 4
"""Size of the square that ten crops are taken from, relative to theirs."""

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


def squash_crop(crop: Crop, width: int, height: int, side: int) -> Crop:
    """Return the crop's place in the image resized from width x height to side x side."""
    left, right = _scale_interval(crop.left, crop.width, side / width, side)
    top, bottom = _scale_interval(crop.top, crop.height, side / height, side)
    return Crop(left, top, right - left, bottom - top, crop.hflip)


def _scale_interval(start: int, length: int, scale: float, side: int) -> tuple[int, int]:
    """Return first and end pixel of a scaled interval, of one pixel or more."""
    first = min(round(start * scale), side - 1)
    return first, max(first + 1, round((start + length) * scale))


def crop_image(pixels: NDArray[np.uint8], crop: Crop, size: int) -> Tensor:
    """Crop and resize one image, (H, W, 3) to (3, size, size) uint8: bilinear, antialiased."""
    part = torch.from_numpy(pixels)[
        crop.top : crop.top + crop.height, crop.left : crop.left + crop.width
    ]
    # Contiguous memory gets torch's fastest kernel.
    part = part.permute(2, 0, 1).unsqueeze(0).contiguous(memory_format=torch.channels_last)
    part = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)[0]
    return part.flip(2) if crop.hflip else part


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


class TrainCrop:
    """Random resized crop and horizontal flip."""

    def __init__(self, data: DataConfig) -> None:
        self._crop_scale_min = data.crop_scale_min
        self._flip = data.flip
        self._decoding = data.decoding

    def sample(self, u: Sequence[float], width: int, height: int) -> Crop:
        """Return the crop that numbers in [0, 1) select from an image of this size."""
        return sample_crop(u, width, height, crop_scale_min=self._crop_scale_min, flip=self._flip)

    def load(self, path: Path, u: Sequence[float], size: int) -> Tensor:
        """Read, crop and resize one image: (3, size, size) uint8.

        Raises:
            DataError: it cannot be decoded.
        """
        pixels = read_pixels(path, self._decoding)
        height, width = pixels.shape[:2]
        return crop_image(pixels, self.sample(u, width, height), size)


class EvalCrop:
    """Resize the short side and crop the center, with Pillow, as torchvision's reference does.

    resize: the short side in pixels; None: 8/7 of the crop, the standard evaluation.
    """

    def __init__(
        self,
        img_size: int,
        *,
        resize: int | None = None,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        self._decoding = decoding
        short_side = eval_resize(img_size) if resize is None else resize
        self._crop = v2.Compose([v2.Resize(short_side), v2.CenterCrop(img_size)])

    def __call__(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """Return an image of S x S pixels from one of any size, (H, W, 3)."""
        image: Image.Image = self._crop(Image.fromarray(_shorten_strip(pixels)))
        return image

    def load(self, path: Path, *_: object) -> Tensor:
        """Read and crop one image: (3, S, S) uint8. Takes and ignores `TrainCrop.load`'s arguments.

        Raises:
            DataError: it cannot be decoded.
        """
        return torch.from_numpy(np.array(self(read_pixels(path, self._decoding)))).permute(2, 0, 1)


def _shorten_strip(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the ends of a long strip: the center crop drops them, resized they may fill RAM."""
    height, width = pixels.shape[:2]
    longest = _MAX_ASPECT_RATIO * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]


def eval_resize(img_size: int) -> int:
    """Return the short side before the center crop: 256 for 224."""
    return round(img_size * 256 / 224)


class TestTimeAugmentation(StrEnum):
    """The standard center crop; that and its horizontal flip; or ten crops.

    Ten crops: the corners and the center of the image's central square, and their flips
    (Krizhevsky et al. 2012). A crop covers 0.64 of the square, about as much as training's crops
    cover on average: 0.65 with --crop-scale-min 0.3.
    """

    CENTER_CROP = "center"
    HFLIP = "hflip"
    TEN_CROP = "ten-crop"

    def source_size(self, crop_size: int) -> int:
        """Return the size of the square image that the views are made from."""
        is_ten_crop = self is TestTimeAugmentation.TEN_CROP
        return round(_TEN_CROP_MARGIN * crop_size) if is_ten_crop else crop_size

    def resize_size(self, crop_size: int) -> int:
        """Return the short side to which an image is resized before the square is cropped."""
        is_ten_crop = self is TestTimeAugmentation.TEN_CROP
        return self.source_size(crop_size) if is_ten_crop else eval_resize(crop_size)

    def source_crop(self, crop_size: int, decoding: Decoding) -> EvalCrop:
        """Return the transform from an image to the square."""
        size, resize = self.source_size(crop_size), self.resize_size(crop_size)
        return EvalCrop(size, resize=resize, decoding=decoding)

    def views(self, squares: Tensor) -> Iterator[Tensor]:
        """Yield one to ten views of N squares, (N, 3, S, S) each, in channels_last."""
        views: Sequence[Tensor] = (squares,)
        if self is TestTimeAugmentation.TEN_CROP:
            size = round(squares.shape[-1] / _TEN_CROP_MARGIN)
            views = ten_crop(squares, [size, size])  # with the strides of the squares
        elif self is TestTimeAugmentation.HFLIP:
            views = (squares, squares.flip(3))
        return (view.contiguous(memory_format=torch.channels_last) for view in views)


class Normalize:
    """(N, 3, H, W) uint8 to float32 in channels_last, with ImageNet's mean and standard deviation.

    Runs on the images' device: uint8 is a quarter of the bytes to transfer.
    """

    def __init__(self, device: torch.device) -> None:
        # Built once: a copy to the GPU per batch would block.
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
        self._maps: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize a batch."""
        mean, std = self._expanded(images.shape[2:])
        floats = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
        # A CPU goes image by image, so that each stays in the cache: 0.6 of the time.
        chunks = len(images) if images.device.type == "cpu" else 1
        for part, result in zip(images.chunk(chunks), floats.chunk(chunks), strict=True):
            torch.sub(part, mean, out=result).div_(std)
        return floats

    def _expanded(self, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each pixel: broadcasting over three numbers is slow."""
        if size not in self._maps:
            self._maps[size] = (
                self._mean.expand(1, 3, *size).contiguous(memory_format=torch.channels_last),
                self._std.expand(1, 3, *size).contiguous(memory_format=torch.channels_last),
            )
        return self._maps[size]
