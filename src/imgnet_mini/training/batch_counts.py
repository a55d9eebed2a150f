"""Counting the batches of all batch norms at once."""

from types import TracebackType
from typing import Final, cast

import torch
from torch import Tensor, nn

_COUNTED: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NAME: Final = "num_batches_tracked"


class BatchCounts:
    """A block around a forward pass, in which batch norms leave their counting to this class.

    Each layer would launch a kernel of its own for it: 53 in a ResNet-50. The counts are the same.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [
            module._buffers
            for module in model.modules()
            if type(module) in _COUNTED
            and module.momentum is not None  # else the layer itself needs its count
            and module._buffers.get(_NAME) is not None
        ]
        self._counts = [cast(Tensor, buffers[_NAME]) for buffers in self._buffers]

    def __enter__(self) -> None:
        for buffers in self._buffers:
            buffers[_NAME] = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for buffers, count in zip(self._buffers, self._counts, strict=True):
            buffers[_NAME] = count
        if self._counts and kind is None:
            torch._foreach_add_(self._counts, 1)
