"""What happens to the pixels: per image on the processor, then per batch on the device."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from imgnet_mini.config import DataConfig
from imgnet_mini.data.images import read_image

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet's channel statistics in units of uint8, as in torchvision's reference training."""

Load = Callable[[Path], Tensor]
"""From a file to pixels: (3, S, S) uint8."""


class TrainLoad:
    """Random resized crop and flip (Szegedy et al. 2015, arXiv:1409.4842, section 6).

    `use_class_style_aug` adds a small affine warp and one erased hole (Zhong et al. 2017,
    arXiv:1708.04896), each to half of the images; what they uncover takes the mean colour.
    """

    def __init__(self, data: DataConfig) -> None:
        steps: list[torch.nn.Module] = [
            v2.PILToTensor(),
            v2.RandomResizedCrop(data.img_size, scale=(data.min_crop, 1.0), antialias=True),
        ]
        if data.flip:
            steps.append(v2.RandomHorizontalFlip())
        if data.use_class_style_aug:
            mean = [round(value) for value in MEAN]
            warp = v2.RandomAffine(
                degrees=10,
                translate=(0.05, 0.05),
                scale=(0.9, 1.1),
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=mean,
            )
            steps += [
                v2.RandomApply([warp], p=0.5),
                v2.RandomErasing(p=0.5, scale=(0.02, 0.1), value=mean),
            ]
        self._augment = v2.Compose(steps)

    def __call__(self, path: Path) -> Tensor:
        """Load one image with the numbers that torch's global generator draws next."""
        pixels: Tensor = self._augment(read_image(path))
        return pixels


class EvalLoad:
    """Resize the short side to 8/7 of the crop's, crop the centre: the standard evaluation.

    Through Pillow, whose pixels torchvision's tensor resize misses by one here and there.
    """

    def __init__(self, img_size: int) -> None:
        self._crop = v2.Compose(
            [v2.Resize(eval_resize(img_size)), v2.CenterCrop(img_size), v2.PILToTensor()]
        )

    def __call__(self, path: Path) -> Tensor:
        """Load one image."""
        pixels: Tensor = self._crop(read_image(path))
        return pixels


def eval_resize(img_size: int) -> int:
    """Short side before the centre crop: 256 for 224."""
    return round(img_size * 256 / 224)


class Normalise:
    """(N, 3, H, W) uint8 to float32, channels last, with ImageNet's mean 0 and deviation 1.

    On the device of the images: a quarter of the bytes travel, and the processor is spared.
    """

    def __init__(self, device: torch.device) -> None:
        # Made once: a copy to a GPU would wait for it at each batch.
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch."""
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        return floats.sub_(self._mean).div_(self._std)
