"""Progress of a run: counters, unread results of steps, and random number generators."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.training.evaluation import Metrics, topk_correct


@dataclass
class TrainState:
    """Progress of a run; part of its checkpoint."""

    epoch: int = 0
    """Epochs finished, with their validation."""
    step: int = 0
    """Optimizer steps taken."""
    batch: int = 0
    """Steps taken in the current epoch."""
    lr: float = 0.0
    """Learning rate of the last step."""
    loss_sum: float = 0.0
    """Sum over the current epoch's steps, but the skipped ones, of the mean loss of their batch."""
    top1: int = 0
    """Top-1 hits of the current epoch."""
    top5: int = 0
    """Top-5 hits of the current epoch."""
    seconds: float = 0.0
    """Time spent on the steps of the current epoch."""
    skipped: int = 0
    """Steps of the current epoch whose loss overflowed fp16, which the scaler skipped."""
    best_top1: float = -1.0
    """Best validation top-1 so far, in percent."""
    best_epoch: int = -1
    """Epoch of the best top-1; -1 before there is one."""

    def metrics(self, images_per_step: int) -> Metrics:
        """Return means over the steps of the current epoch; there must be at least one.

        The loss is NaN if all were skipped.
        """
        images, counted = self.batch * images_per_step, self.batch - self.skipped
        return Metrics(
            loss=self.loss_sum / counted if counted else math.nan,
            top1=100 * self.top1 / images,
            top5=100 * self.top5 / images,
            images=images,
            imgs_per_sec=images / self.seconds,
        )

    def finish_epoch(self, top1: float) -> bool:
        """Start the next epoch; return whether the finished one is the best so far."""
        is_best = top1 > self.best_top1
        if is_best:
            self.best_top1, self.best_epoch = top1, self.epoch
        self.epoch += 1
        self.batch = self.top1 = self.top5 = self.skipped = 0
        self.loss_sum = self.seconds = 0.0
        return is_best

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a checkpoint; earlier versions do not know `skipped`."""
        return {name: value for name, value in asdict(self).items() if value or name != "skipped"}


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's generators, which layers such as dropout use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(states: Sequence[dict[str, Tensor]], rank: int, *, fallback: int) -> None:
    """Restore the `random_state` of this rank.

    states: by rank.
    fallback: seed for a rank without a saved state.
    """
    if rank >= len(states):
        torch.manual_seed(fallback)
        return
    state = states[rank]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class StepLogger(Protocol):
    """Receives the loss and the learning rate of each training step."""

    def log_steps(self, first_step: int, losses: Sequence[float], lrs: Sequence[float]) -> None:
        """Log consecutive steps, of which `first_step` is the first."""


class StepBuffer:
    """Losses, learning rates and correct predictions of up to `capacity` steps.

    Only `read` waits for the device.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._losses = torch.zeros(capacity, device=device)
        self._correct = torch.zeros(2, dtype=torch.int64, device=device)
        self._lrs: list[float] = []
        self.tensors = (self._losses, self._correct)
        """All that `add` changes."""

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a micro-batch of the current step.

        loss: its share of the loss of the step; logits: (N, C); targets: (N,) or (N, C).
        """
        self._losses[len(self._lrs)] += loss
        self._correct += topk_correct(logits.float(), targets)

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
