"""Test-time augmentation: the views of an image whose logits an evaluation averages."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from torch import Tensor
from torchvision.transforms.v2 import functional

from imgnet_mini.data.transforms import EvalCrop, eval_resize

_TEN_CROP_MARGIN: Final = 5 / 4
"""Size of the square that ten crops are taken from, relative to theirs."""


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

    def source_crop(self, crop_size: int) -> EvalCrop:
        """Return the transform from an image to the square."""
        return EvalCrop(self.source_size(crop_size), resize=self.resize_size(crop_size))

    def views(self, squares: Tensor) -> Sequence[Tensor]:
        """Return one to ten views of N squares, (N, 3, S, S) each."""
        if self is TestTimeAugmentation.TEN_CROP:
            size = round(squares.shape[-1] / _TEN_CROP_MARGIN)
            crops: Sequence[Tensor] = functional.ten_crop(squares, [size, size])
            return crops
        return (squares, squares.flip(3)) if self is TestTimeAugmentation.HFLIP else (squares,)
