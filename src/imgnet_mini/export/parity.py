"""Parity of an exported model with the network."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from imgnet_mini.export.formats import ExportedModel

_TOLERANCE: Final = 1e-3
"""Relative to the largest logit: other kernels sum float32 in another order, which costs 1e-6."""


@dataclass(frozen=True)
class ParityResult:
    """Comparison of the logits of both models on some images.

    same_top1: number of images with the same top-1 class.
    max_difference: largest absolute difference of two logits.
    max_logit: largest absolute logit, at least 1.
    """

    images: int
    same_top1: int
    max_difference: float
    max_logit: float

    @property
    def is_match(self) -> bool:
        """True if both models agree within the tolerance."""
        is_close = self.max_difference <= _TOLERANCE * self.max_logit
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
