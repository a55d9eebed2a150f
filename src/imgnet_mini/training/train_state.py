"""Progress of a run, and the state of its random number generators."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imgnet_mini.training.evaluation import Metrics


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
    """Sum over the current epoch's steps of the mean loss of their batch."""
    top1: int = 0
    """Top-1 hits of the current epoch."""
    top5: int = 0
    """Top-5 hits of the current epoch."""
    seconds: float = 0.0
    """Time spent on the steps of the current epoch."""
    best_top1: float = -1.0
    """Best validation top-1 so far, in percent."""
    best_epoch: int = -1
    """Epoch of the best top-1; -1 before there is one."""

    def metrics(self, images_per_step: int) -> Metrics:
        """Return means over the steps of the current epoch; there must be at least one."""
        images = self.batch * images_per_step
        return Metrics(
            loss=self.loss_sum / self.batch,
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
        self.batch = self.top1 = self.top5 = 0
        self.loss_sum = self.seconds = 0.0
        return is_best


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
