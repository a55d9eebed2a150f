"""A check for infinity and NaN."""

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether floating-point tensors hold no infinity and no NaN, by a norm of each. Blocking."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return not floats or bool(torch.stack(torch._foreach_norm(floats)).isfinite().all())
