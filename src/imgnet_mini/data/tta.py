"""What an evaluation shows the network of each image, whose answers it takes the mean of."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from torch import Tensor
from torchvision.transforms.v2 import functional

from imgnet_mini.data.transforms import EvalCrop, eval_resize

_MARGIN: Final = 5 / 4


class TestTimeAugmentation(StrEnum):
    """The standard centre crop, that and its mirror image, or ten crops.

    Ten crops: the corners and the centre of the image's central square, and their mirror images
    (Krizhevsky et al. 2012). The square's side is 5/4 of a crop's, so that a crop holds 0.64 of
    it: about what training's crops hold, 0.65 where the smallest is 0.3 of the image.
    """

    CENTER_CROP = "center"
    HFLIP = "hflip"
    TEN_CROP = "ten-crop"

    def side(self, size: int) -> int:
        """Of the square that crops of this side are taken of."""
        return round(_MARGIN * size) if self is TestTimeAugmentation.TEN_CROP else size

    def resize(self, size: int) -> int:
        """Short side of the image that the square is cut out of."""
        return self.side(size) if self is TestTimeAugmentation.TEN_CROP else eval_resize(size)

    def crop(self, size: int) -> EvalCrop:
        """What makes the square of an image."""
        return EvalCrop(self.side(size), resize=self.resize(size))

    def of(self, squares: Tensor) -> Sequence[Tensor]:
        """What the network is shown of N squares: one to ten of (N, 3, S, S)."""
        if self is TestTimeAugmentation.TEN_CROP:
            size = round(squares.shape[-1] / _MARGIN)
            crops: Sequence[Tensor] = functional.ten_crop(squares, [size, size])
            return crops
        return (squares, squares.flip(3)) if self is TestTimeAugmentation.HFLIP else (squares,)
