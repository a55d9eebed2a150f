"""How far a run is, and the generators that its next random numbers come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class TrainState:
    """How far a run is. Together with the states of its parts it is the checkpoint."""

    epoch: int = 0
    """Epochs finished, their validation included."""
    step: int = 0
    """Optimizer steps taken."""
    batch: int = 0
    """Steps taken in the current epoch."""
    lr: float = 0.0
    """Learning rate of the newest step."""
    loss_sum: float = 0.0
    """Sum over the current epoch's steps of the mean loss of their batch."""
    top1: int = 0
    """Images of the current epoch whose class came first."""
    top5: int = 0
    """Images of the current epoch whose class was among the first five."""
    seconds: float = 0.0
    """Time spent on the current epoch's steps."""
    best_top1: float = -1.0
    """Best validation top-1 so far, in percent."""
    best_epoch: int = -1
    """Its epoch."""

    def finish_epoch(self, top1: float) -> bool:
        """Start on the next epoch; say whether the one that ends here is the best so far."""
        is_best = top1 > self.best_top1
        if is_best:
            self.best_top1, self.best_epoch = top1, self.epoch
        self.epoch += 1
        self.batch = self.top1 = self.top5 = 0
        self.loss_sum = self.seconds = 0.0
        return is_best


def random_state() -> dict[str, Tensor]:
    """The generators that layers such as dropout draw from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(states: Sequence[dict[str, Tensor]], rank: int, *, fallback: int) -> None:
    """Go on from what `random_state` gave on this rank.

    fallback: the seed of a rank that there was none of before.
    """
    if rank >= len(states):
        torch.manual_seed(fallback)
        return
    state = states[rank]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
