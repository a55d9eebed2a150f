"""The learning-rate range test, run by torch-lr-finder.

Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch_lr_finder.lr_finder as library
from torch import Tensor, device, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from imgnet_mini.config.training_settings import ResolvedFinder
from imgnet_mini.lr_finder.curve import Curve, StopReason, build_curve
from imgnet_mini.lr_finder.trials import SearchEndedError

Batches = Iterator[tuple[Tensor, Tensor]]
OnStep = Callable[[int, float], None]

_DIVERGED = 4.0
"""The test stops at this multiple of the lowest loss (the factor of fastai's `lr_find`)."""

_RECENT_STEPS = 5
"""Both losses are means over this many steps, so that one odd batch does not end the test."""


def run_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    criterion: nn.Module,
    batches: Batches,
    finder: ResolvedFinder,
    *,
    device: device,
    autocast: dict[str, Any] | None,
    scaler: GradScaler,
    grad_accum_steps: int = 1,
    all_reduce: Callable[[float], float] | None = None,
    on_step: OnStep | None = None,
) -> Curve:
    """Train for `num_iter` steps while the learning rate grows by a constant factor.

    Stops early if the loss diverges or is not finite, or if `on_step` raises
    `SearchEndedError`: the curve then ends there. Restores model, optimizer and scaler and
    clears the gradients, also if an exception ends the test.

    optimizer: without a scheduler; its learning rate is not used.
    batches: endless; (N, C, H, W) float images and (N,) or (N, C) targets.
    autocast: `device_type` and `dtype` of `torch.autocast`; None for float32.
    scaler: may be disabled.
    all_reduce: averages the loss of a step over all ranks.
    on_step: called after each step with the number of steps and the loss.
    """
    lr_finder = library.LRFinder(
        model,
        optimizer,
        criterion,
        device=device,
        amp_backend="torch" if autocast else None,
        amp_config=autocast,
        grad_scaler=scaler,
    )
    watched = _WatchedBatches(batches, lr_finder, all_reduce, on_step)
    stopped: StopReason = "end"
    with _restoring(lr_finder, scaler), _quiet():
        try:
            lr_finder.range_test(
                watched,
                start_lr=finder.start_lr,
                end_lr=finder.end_lr,
                num_iter=finder.num_iter,
                accumulation_steps=grad_accum_steps,
                step_mode="exp",
                # LRFinder's smoothing lags and starts from one noisy loss, and its stop criterion
                # uses that loss and misses NaN: smoothing and stopping are done here.
                smooth_f=0,
                diverge_th=math.inf,
            )
            watched.check_loss()
        except _StopEarly as stop:
            stopped = stop.reason
        except SearchEndedError:
            pass
        history = lr_finder.history
    return build_curve(history["lr"], history["loss"], stopped, num_iter=finder.num_iter)


class _StopEarly(Exception):  # noqa: N818  # control flow out of LRFinder's loop
    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class _WatchedBatches(library.TrainDataLoaderIter):  # type: ignore[misc]  # it has no types
    """Batches for LRFinder; checks the last loss before each."""

    def __init__(
        self,
        batches: Batches,
        lr_finder: Any,
        all_reduce: Callable[[float], float] | None,
        on_step: OnStep | None,
    ) -> None:
        super().__init__(batches)
        self._lr_finder = lr_finder
        self._all_reduce = all_reduce
        self._on_step = on_step
        self._lowest = math.inf
        self._seen = 0

    def __next__(self) -> tuple[Tensor, Tensor]:
        self.check_loss()
        images, targets = super().__next__()
        return images, targets

    def check_loss(self) -> None:
        """Report the last loss.

        Raises:
            _StopEarly: the loss diverges or is not finite.
        """
        losses: list[float] = self._lr_finder.history["loss"]
        if len(losses) == self._seen:
            return
        self._seen = len(losses)
        if self._all_reduce:
            losses[-1] = self._all_reduce(losses[-1])
        if self._on_step:
            self._on_step(len(losses), losses[-1])
        if not math.isfinite(losses[-1]):
            raise _StopEarly("nan")
        recent = losses[-_RECENT_STEPS:]
        mean = math.fsum(recent) / len(recent)
        self._lowest = min(self._lowest, mean)
        if mean > _DIVERGED * self._lowest:
            raise _StopEarly("diverged")


@contextmanager
def _restoring(lr_finder: Any, scaler: GradScaler) -> Iterator[None]:
    """Restore model, optimizer and scaler on exit."""
    model, optimizer = lr_finder.model, lr_finder.optimizer
    training = model.training
    scaling = scaler.state_dict()
    try:
        yield
    finally:
        lr_finder.reset()  # model and optimizer only
        model.train(training)
        optimizer.zero_grad(set_to_none=True)
        if scaler.is_enabled():
            scaler.load_state_dict(scaling)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide LRFinder's progress bar and prints, which it cannot switch off.

    Redirecting the streams instead would also hide warnings and the caller's progress bar.
    """
    bar = library.tqdm
    library.tqdm, library.print = iter, lambda *_: None
    try:
        yield
    finally:
        library.tqdm = bar
        del library.print
