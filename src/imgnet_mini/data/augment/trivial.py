"""TrivialAugment of a whole batch, in one pass per operation."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional

from imgnet_mini.data.batches import BatchRandom

_BINS: Final = 31
"""Magnitudes per operation."""

_PARAMETERS: Final = 6
"""Numbers per image that a kernel takes, at most."""

Kernel = Callable[[Tensor, Tensor], Tensor]
"""From images (n, 3, S, S) uint8 and parameters (n, 6) float32 of each to new images."""


def _warp(images: Tensor, parameters: Tensor) -> Tensor:
    """Sample each pixel from its place in the input: an affine map, in pixels from the center."""
    count, size = len(images), images.shape[2]
    pixel = torch.arange(size, device=images.device) - (size - 1) / 2
    scaled = parameters / (size / 2)  # grid_sample's coordinates are from -1 to 1
    across, down, shift = scaled.view(count, 1, 1, 2, 3).unbind(4)
    # No matrix product: on a GPU that would be in TF32, wrong by several gray levels.
    grid = (pixel.view(1, 1, size, 1) * across).expand(count, size, size, 2)
    grid = torch.addcmul(grid, pixel.view(1, size, 1, 1), down) + shift
    warped = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return warped.round_().to(torch.uint8)


def _blend(images: Tensor, others: Tensor | None, parameters: Tensor) -> Tensor:
    """Return `factor * images + (1 - factor) * others`; the parameters begin with both weights."""
    weight, rest = parameters[:, :2].reshape(-1, 2, 1, 1, 1).unbind(1)
    mixed = images * weight
    if others is not None:
        mixed = torch.addcmul(mixed, others, rest)
    return mixed.clamp_(0, 255).to(torch.uint8)


def _brightness(images: Tensor, parameters: Tensor) -> Tensor:
    return _blend(images, None, parameters)


def _color(images: Tensor, parameters: Tensor) -> Tensor:
    return _blend(images, _gray(images), parameters)


def _contrast(images: Tensor, parameters: Tensor) -> Tensor:
    # Whole numbers, summed row by row: the result does not depend on the number of images.
    mean = _gray(images).sum(3, keepdim=True).sum(2, keepdim=True).div_(images[0, 0].numel())
    return _blend(images, mean, parameters)


def _gray(images: Tensor) -> Tensor:
    """Return the luma of ITU-R BT.601, rounded down: (n, 1, S, S) float32."""
    red, green, blue = images.unbind(1)
    gray = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return gray.floor_().unsqueeze(1)


def _sharpness(images: Tensor, parameters: Tensor) -> Tensor:
    """Blend with a blur of 3 x 3 pixels, of which the center counts five times; not at the edge."""
    floats = images.float()
    rows = floats[:, :, :-2] + floats[:, :, 1:-1] + floats[:, :, 2:]
    blurred = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    center = floats[..., 1:-1, 1:-1]
    blurred = blurred.add_(center, alpha=4).div_(13).round_()
    rest = parameters[:, 1].view(-1, 1, 1, 1)
    center.copy_(torch.addcmul(center, blurred.sub_(center), rest))
    return floats.clamp_(0, 255).to(torch.uint8)


def _posterize(images: Tensor, parameters: Tensor) -> Tensor:
    return images & parameters[:, 0].to(torch.uint8).view(-1, 1, 1, 1)


def _solarize(images: Tensor, parameters: Tensor) -> Tensor:
    return torch.where(images >= parameters[:, 0].view(-1, 1, 1, 1), ~images, images)


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    changed: Tensor = functional.autocontrast(images)
    return changed


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    changed: Tensor = functional.equalize(images)
    return changed


class _Operation(NamedTuple):
    """An operation, its magnitudes, and its parameters from a magnitude and the image size."""

    kernel: Kernel | None
    magnitudes: Sequence[float] = ()
    signed: bool = False
    parameters: Callable[[float, int], Sequence[float]] = lambda *_: ()


def _range(first: float, last: float) -> list[float]:
    return torch.linspace(first, last, _BINS).tolist()


def _shear_x(magnitude: float, size: int) -> Sequence[float]:
    return 1, magnitude, magnitude * size / 2, 0, 1, 0


def _shear_y(magnitude: float, size: int) -> Sequence[float]:
    return 1, 0, 0, magnitude, 1, magnitude * size / 2


def _rotation(magnitude: float, size: int) -> Sequence[float]:
    del size
    sine, cosine = math.sin(math.radians(magnitude)), math.cos(math.radians(magnitude))
    return cosine, -sine, 0, sine, cosine, 0


def _weights(magnitude: float, size: int) -> Sequence[float]:
    del size
    return 1 + magnitude, -magnitude


_OPERATIONS: Final = (
    _Operation(None),
    _Operation(_warp, _range(0, 0.99), signed=True, parameters=_shear_x),
    _Operation(_warp, _range(0, 0.99), signed=True, parameters=_shear_y),
    _Operation(_warp, _range(0, 32), signed=True, parameters=lambda m, _: (1, 0, -int(m), 0, 1, 0)),
    _Operation(_warp, _range(0, 32), signed=True, parameters=lambda m, _: (1, 0, 0, 0, 1, -int(m))),
    _Operation(_warp, _range(0, 135), signed=True, parameters=_rotation),
    _Operation(_brightness, _range(0, 0.99), signed=True, parameters=_weights),
    _Operation(_color, _range(0, 0.99), signed=True, parameters=_weights),
    _Operation(_contrast, _range(0, 0.99), signed=True, parameters=_weights),
    _Operation(_sharpness, _range(0, 0.99), signed=True, parameters=_weights),
    _Operation(
        _posterize,
        [8 - round(bin_ * 6 / (_BINS - 1)) for bin_ in range(_BINS)],
        parameters=lambda bits, _: (256 - 2 ** (8 - bits),),
    ),
    _Operation(_solarize, _range(1, 0), parameters=lambda share, _: (255 * share,)),
    _Operation(_autocontrast),
    _Operation(_equalize),
)
"""In the order of torchvision's, so that the draws are the same; the first changes nothing."""


class TrivialAugment:
    """One random operation of random strength for each image, on its device.

    Müller and Hutter 2021 (arXiv:2103.10158): the draws and operations of torchvision's
    TrivialAugmentWide with bilinear interpolation, as in its reference training. Uncovered pixels
    become black. The images of one operation are changed together, and all parameters of a batch
    are sent to the device in one copy that does not block.
    """

    def __call__(
        self, images: Tensor, targets: Tensor, random: BatchRandom
    ) -> tuple[Tensor, Tensor]:
        """Change images (N, 3, S, S) uint8."""
        groups = defaultdict[Kernel, list[list[float]]](list)
        for position in range(len(images)):
            operation, magnitude = _draw(random, position)
            if operation.kernel is not None:
                values = operation.parameters(magnitude, images.shape[2])
                padding = [0.0] * (_PARAMETERS - len(values))
                groups[operation.kernel].append([position, *values, *padding])
        changed = images.clone()
        if not groups:
            return changed, targets
        table = torch.tensor([row for group in groups.values() for row in group])
        if images.is_cuda:
            table = table.pin_memory()
        table = table.to(images.device, non_blocking=True)
        index, counts = table[:, 0].long(), [len(group) for group in groups.values()]
        parts = zip(
            groups,
            torch.split(images.index_select(0, index), counts),
            torch.split(table[:, 1:], counts),
            strict=True,
        )
        results = [kernel(part, values) for kernel, part, values in parts]
        return changed.index_copy_(0, index, torch.cat(results)), targets


def _draw(random: BatchRandom, position: int) -> tuple[_Operation, float]:
    """Draw the operation and the magnitude of one image, as torchvision does."""
    with random.seeded(position):
        operation = _OPERATIONS[int(torch.randint(len(_OPERATIONS), ()))]
        if not operation.magnitudes:
            return operation, 0.0
        magnitude = operation.magnitudes[int(torch.randint(_BINS, ()))]
        negative = operation.signed and bool(torch.rand(()) <= 0.5)
    return operation, -magnitude if negative else magnitude
