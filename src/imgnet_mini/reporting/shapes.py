"""The network as shapes alone, to be looked into without touching the network itself."""

import copy
from typing import Any

from torch import Tensor, nn


def shape_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have shapes but no values (torch's meta device).

    Whatever is run on it, mode, gradients, statistics and device of `model` stay as they are.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    # What the memo holds is taken instead of copied, so the weights are not doubled.
    memo: dict[int, Any] = {id(tensor): _without_values(tensor) for tensor in tensors}
    return copy.deepcopy(model, memo).eval()


def _without_values(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(shape, requires_grad=tensor.requires_grad)
    return shape
