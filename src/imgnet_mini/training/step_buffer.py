"""Losses and hits of training steps, kept on the device until the host reads them."""

import torch
from torch import Tensor

from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.training.evaluation import topk_classes, topk_correct


class StepBuffer:
    """Losses, learning rates and correct predictions of up to `capacity` steps.

    Only `read` waits for the device.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._losses = torch.zeros(capacity, device=device)
        self._correct = torch.zeros(2, dtype=torch.int64, device=device)
        self._lrs: list[float] = []

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a micro-batch of the current step.

        loss: its share of the loss of the step; logits: (N, C); targets: (N,) or (N, C).
        """
        self._losses[len(self._lrs)] += loss
        self._correct += topk_correct(topk_classes(logits), targets)

    def finish_step(self, lr: float) -> None:
        """End the current step, which was taken at this learning rate."""
        self._lrs.append(lr)

    def read(self, distributed: DistributedContext) -> tuple[list[float], list[float], int, int]:
        """Return and clear losses and learning rates per step, top-1 and top-5 hits. Blocking.

        Losses are means over the ranks, hits are sums.
        """
        local = [*self._losses[: len(self._lrs)].tolist(), *self._correct.tolist()]
        *sums, top1, top5 = distributed.all_reduce_sum(local)
        losses = [loss / distributed.world_size for loss in sums]
        lrs, self._lrs = self._lrs, []
        self._losses.zero_()
        self._correct.zero_()
        return losses, lrs, round(top1), round(top5)
