"""The moving average of a network's weights."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class ModelEma:
    """A second network whose weights follow those of the one that is trained, in float32.

    The exponential moving average (Polyak and Juditsky 1992; Tarvainen and Valpola 2017,
    arXiv:1703.01780, section 2). Statistics of batch norms follow in the same way, and what is no
    floating-point number is as it is in the other network.

    decay: the share of the average that a step leaves; less in early steps, so that the random
        start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        pairs = [
            *zip(self.model.parameters(), model.parameters(), strict=True),
            *zip(self.model.buffers(), model.buffers(), strict=True),
        ]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        others = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averages, self._weights = [list(side) for side in zip(*floats, strict=True)]
        self._copies = [one for one, _ in others]
        self._copied = [other for _, other in others]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after a step, counted from 0; the device is not waited for.

        A step that gradient scaling has skipped counts too: the average then moves towards
        weights that have not moved, and nobody has to know on the host which steps those were.
        """
        torch._foreach_lerp_(self._averages, self._weights, 1 - ema_decay_at(step, self._decay))
        if self._copies:
            torch._foreach_copy_(self._copies, self._copied)


def load_ema(average: ModelEma | None, saved: Mapping[str, Any] | None) -> None:
    """Go on from the weights that an average had.

    Raises:
        RuntimeError: they are those of another network.
        ValueError: there are none though there is an average, or some though there is none.
    """
    if (average is None) != (saved is None):
        there, wanted = ("none", "some") if saved is None else ("some", "none")
        raise ValueError(f"ema: it has {there}, and by the settings it is to have {wanted}")
    if average is not None and saved is not None:
        average.model.load_state_dict(saved)


def ema_decay_at(step: int, decay: float) -> float:
    """The share of the average that a step leaves: (1 + t) / (10 + t), up to `decay`."""
    return min(decay, (1 + step) / (10 + step))
