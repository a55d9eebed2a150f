"""Crops of training, evaluation and test-time augmentation, and normalization of batches."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import ten_crop

from imgnet_mini.config.data_settings import DEFAULT_DECODING, DataConfig, Decoding
from imgnet_mini.data.crops import (
    Crop,
    crop_image,
    crop_padded,
    sample_crop,
    sample_padded_crop,
    scale_crop,
)
from imgnet_mini.data.fit import (
    MAX_ASPECT_RATIO,
    fit_whole,
    padding_color,
    place_in_square,
    shorten_strip,
)
from imgnet_mini.data.images import read_pixels

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet's channel statistics in units of uint8, as in torchvision's reference training."""

_TEN_CROP_MARGIN: Final = 5 / 4
"""Size of the square that ten crops are taken from, relative to theirs."""


class TrainCrop:
    """Random resized crop and horizontal flip."""

    def __init__(self, data: DataConfig) -> None:
        self._crop_scale_min = data.crop_scale_min
        self._flip = data.flip
        self._decoding = data.decoding
        self._color = padding_color(data.background)

    def sample(self, u: Sequence[float], width: int, height: int) -> Crop:
        """Return the crop that numbers in [0, 1) select from the frame of an image of this size."""
        draw, size = sample_crop, self.frame(width, height)
        if self._decoding.fit == "pad":
            draw, size = sample_padded_crop, (width, height)
        return draw(u, *size, crop_scale_min=self._crop_scale_min, flip=self._flip)

    def frame(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of what crops of an image of this size are sampled from."""
        side = max(width, height)
        return (width, height) if self._decoding.fit == "crop" else (side, side)

    def load(self, path: Path, u: Sequence[float], size: int) -> Tensor:
        """Read, crop and resize one image: (3, size, size) uint8.

        Raises:
            DataError: it cannot be decoded.
        """
        pixels = read_pixels(path, self._decoding)
        height, width = pixels.shape[:2]
        crop = self.sample(u, width, height)
        if self._decoding.fit == "pad":
            return crop_padded(pixels, crop, size, self._color)
        crop = scale_crop(crop, self.frame(width, height), (width, height))
        return crop_image(pixels, crop, size)


class EvalCrop:
    """The square of an image for evaluation, resized with Pillow: bilinear, antialiased.

    Resize the short side and crop the center, as torchvision's reference does; or fit the whole
    image in, padded or squashed.

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
        self._size = img_size
        is_padded = decoding.fit == "pad"
        self._color = padding_color(decoding.background) if is_padded else None
        short_side = eval_resize(img_size) if resize is None else resize
        self._sizes = short_side, img_size
        self._crop = v2.Compose([v2.Resize(short_side), v2.CenterCrop(img_size)])

    def __call__(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """Return an image of S x S pixels from one of any size, (H, W, 3)."""
        if self._decoding.fit != "crop":
            return fit_whole(pixels, self._size, self._color)
        image: Image.Image = self._crop(Image.fromarray(shorten_strip(pixels)))
        return image

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of an image of this size that the crop shows.

        Gives left, top, right and bottom, as fractions of the width and the height; padding lies
        beyond 0 and 1.
        """
        if self._decoding.fit == "squash":
            return 0.0, 0.0, 1.0, 1.0
        if self._decoding.fit == "pad":
            side = self._size
            x, y, shown_width, shown_height = place_in_square(width, height, side)
            start, end = (-x / shown_width, -y / shown_height), (side - x, side - y)
            return *start, end[0] / shown_width, end[1] / shown_height
        longest = MAX_ASPECT_RATIO * min(width, height)
        across = _central_part(width, min(width, longest), min(width, height), self._sizes)
        down = _central_part(height, min(height, longest), min(width, height), self._sizes)
        return across[0], down[0], across[1], down[1]

    def load(self, path: Path, *_: object) -> Tensor:
        """Read and crop one image: (3, S, S) uint8. Takes and ignores `TrainCrop.load`'s arguments.

        Raises:
            DataError: it cannot be decoded.
        """
        return torch.from_numpy(np.array(self(read_pixels(path, self._decoding)))).permute(2, 0, 1)


def _central_part(
    side: int, kept: int, shortest: int, sizes: tuple[int, int]
) -> tuple[float, float]:
    """Return start and end of the crop along one side of an image, as fractions of it.

    kept: pixels left by `shorten_strip`; sizes: short side after the resize, and of the crop.
    """
    resized = int(sizes[0] * kept / shortest)  # as torchvision rounds
    start = round((resized - sizes[1]) / 2) * kept / resized + (side - kept) // 2
    return start / side, (start + sizes[1] * kept / resized) / side


def eval_resize(img_size: int, fit: str = "crop") -> int:
    """Return the short side before the center crop: 256 for 224; without a crop that of it."""
    return round(img_size * 256 / 224) if fit == "crop" else img_size


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

    def resize_size(self, crop_size: int, fit: str = "crop") -> int:
        """Return the short side to which an image is resized before the square is cropped."""
        is_ten_crop = self is TestTimeAugmentation.TEN_CROP
        return self.source_size(crop_size) if is_ten_crop else eval_resize(crop_size, fit)

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
