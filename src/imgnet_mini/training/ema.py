"""Exponential moving average (EMA) of a network's weights."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class ModelEma:
    """A copy of a network whose weights are the moving average of its weights, in float32.

    See Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv:1703.01780, section 2. Floating
    point buffers, such as batch-norm statistics, are averaged too; others are copied.

    decay: weight of the average in an update; lower in early steps, to forget the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        pairs = [
            *zip(self.model.parameters(), model.parameters(), strict=True),
            *zip(self.model.buffers(), model.buffers(), strict=True),
        ]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        integers = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averages, self._weights = [list(side) for side in zip(*floats, strict=True)]
        self._copies = [copied for copied, _ in integers]
        self._originals = [original for _, original in integers]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after a step, counted from 0, without waiting for the device.

        Steps skipped by gradient scaling count too, so that the host need not know which were.
        """
        torch._foreach_lerp_(self._averages, self._weights, 1 - ema_decay_at(step, self._decay))
        if self._copies:
            torch._foreach_copy_(self._copies, self._originals)


def load_ema(ema: ModelEma | None, saved: Mapping[str, Any] | None) -> None:
    """Load saved averaged weights.

    Raises:
        RuntimeError: they belong to another network.
        ValueError: only one of the two is None.
    """
    if (ema is None) != (saved is None):
        found, wanted = ("none", "some") if saved is None else ("some", "none")
        raise ValueError(f"ema: it has {found}, and by the settings it is to have {wanted}")
    if ema is not None and saved is not None:
        ema.model.load_state_dict(saved)


def ema_decay_at(step: int, decay: float) -> float:
    """Return the decay of step t: (1 + t) / (10 + t), at most `decay`."""
    return min(decay, (1 + step) / (10 + step))
