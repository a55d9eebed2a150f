"""How far a run is."""

from dataclasses import dataclass


@dataclass
class TrainState:
    """How far a run is. Together with the states of its parts it is the checkpoint."""

    epoch: int = 0
    """Epochs finished, their validation included."""
    step: int = 0
    """Optimizer steps taken."""
    batch: int = 0
    """Steps taken in the current epoch."""
    rate: float = 0.0
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
