"""A check for infinity and NaN."""

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all floating-point tensors are finite, by the norm of each. Blocking."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return not floats or bool(torch.stack(torch._foreach_norm(floats)).isfinite().all())
