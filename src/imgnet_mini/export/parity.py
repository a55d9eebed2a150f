"""Parity of an exported model with the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from imgnet_mini.export.formats import ExportedModel

_TOLERANCE: Final = 1e-3
"""Relative to the largest logit: other kernels sum float32 in another order, which costs 1e-6."""

_RAW_TOLERANCE: Final = 5e-3
"""Tolerance for log-probabilities of images as they are: the resize differs by one gray level in
about one of a thousand pixels from Pillow's, which costs 2e-4."""

_LEAST: Final = 1e-12
"""Smaller probabilities count as this one: float32 has no logarithm of the smallest."""


@dataclass(frozen=True)
class ParityResult:
    """Comparison of the logits of both models on some images.

    same_top1: number of images with the same top-1 class.
    max_difference: largest absolute difference of two logits.
    max_logit: largest absolute logit, at least 1.
    tolerance: of the difference, relative to the largest logit.
    """

    images: int
    same_top1: int
    max_difference: float
    max_logit: float
    tolerance: float = _TOLERANCE

    @property
    def is_match(self) -> bool:
        """True if both models agree within the tolerance."""
        is_close = self.max_difference <= self.tolerance * self.max_logit
        return self.same_top1 == self.images and is_close


def compare(model: nn.Module, exported: ExportedModel, images: Tensor) -> ParityResult:
    """Run both models on a batch, and the exported one also on the first image alone.

    An exported file may have kept the batch size it was made with.

    images: (N, 3, S, S) float32, normalized.
    """
    with torch.no_grad():
        expected = model(images)
        logits = exported(images)
        single = exported(images[:1])
    both = torch.cat([logits, single])
    difference = (both - torch.cat([expected, expected[:1]])).abs().max()
    return ParityResult(
        len(images),
        int((logits.argmax(1) == expected.argmax(1)).sum()),
        float(difference) if bool(both.isfinite().all()) else float("inf"),
        max(1.0, float(expected.abs().max())),
    )


def compare_raw(
    graph: nn.Module,
    model: nn.Module,
    exported: ExportedModel,
    pictures: Sequence[Tensor],
    images: Tensor,
) -> ParityResult:
    """Compare the log-probabilities of a model that takes images as they are.

    Each picture is compared with the image that `predict` makes of it; a batch of three, with the
    graph that was exported. A class that is as likely, within the tolerance, counts as the same.

    graph: see `raw_images.RawImages`; pictures: (H, W, 3) uint8 each.
    images: of the pictures, (N, 3, S, S) float32, normalized, for `model`.
    """
    first = pictures[0]
    batch = torch.stack([first, first.flip(0), first.flip(1)])
    with torch.no_grad():
        expected = _logarithm(model(images).softmax(1))
        found = _logarithm(torch.cat([exported(picture.unsqueeze(0)) for picture in pictures]))
        of_batch = _logarithm(exported(batch)) - _logarithm(graph(batch))
    largest = max(1.0, float(expected.abs().max()))
    lost = expected.amax(1) - expected.gather(1, found.argmax(1, keepdim=True)).squeeze(1)
    difference = torch.cat([found - expected, of_batch])
    return ParityResult(
        len(images),
        int((lost <= _RAW_TOLERANCE * largest).sum()),
        float(difference.abs().max()) if bool(difference.isfinite().all()) else float("inf"),
        largest,
        _RAW_TOLERANCE,
    )


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=_LEAST).log()
