"""The learning-rate range test, by torch-lr-finder, on the parts that training would use.

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

from imgnet_mini.config.settings import FinderConfig
from imgnet_mini.lr_finder.curve import Curve, Stopped, build_curve

BatchLoader = Iterator[tuple[Tensor, Tensor]]
OnStep = Callable[[int, float], None]

_DIVERGED = 4.0
"""The test ends where the loss is so many times its lowest (the factor of fastai's `lr_find`)."""

_RECENT_STEPS = 5
"""Both are means over so many steps, so that one odd batch does not end the test."""


def run_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    criterion: nn.Module,
    batches: BatchLoader,
    finder: FinderConfig,
    *,
    device: device,
    autocast: dict[str, Any] | None,
    scaler: GradScaler,
    grad_accum_steps: int = 1,
    agree: Callable[[float], float] | None = None,
    on_step: OnStep | None = None,
) -> Curve:
    """Train for `num_iter` steps, each at a learning rate higher than the last by the same factor.

    It stops early where the loss diverges or is not finite. Weights, buffers and mode of the
    model, the optimizer and the scaler are afterwards as they were, gradients are gone; also
    if an exception ends the test.

    optimizer: with no scheduler attached; its own rate is not used.
    batches: endless; (N, C, H, W) float images and (N,) or (N, C) targets.
    autocast: `device_type` and `dtype` of `torch.autocast`; None for plain float32.
    scaler: a disabled one where nothing is to be scaled.
    accumulate: batches that make one step.
    agree: from a process's loss of a step to that of all processes that test together.
    on_step: called after each step with the steps taken and the step's loss.
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
    watched = _WatchedBatches(batches, lr_finder, agree, on_step)
    stopped: Stopped = "end"
    with _restoring(lr_finder, scaler), _quiet():
        try:
            lr_finder.range_test(
                watched,
                start_lr=finder.start_lr,
                end_lr=finder.end_lr,
                num_iter=finder.num_iter,
                accumulation_steps=grad_accum_steps,
                step_mode="exp",
                # Its smoothing lags and starts from one noisy loss, and its way to stop, which
                # NaN escapes, looks at that loss: the curve is smoothed and watched here.
                smooth_f=0,
                diverge_th=math.inf,
            )
            watched.look_at_loss()
        except _StopEarly as stop:
            stopped = stop.reason
        history = lr_finder.history
    return build_curve(history["lr"], history["loss"], stopped, num_iter=finder.num_iter)


class _StopEarly(Exception):  # noqa: N818  # no error: the way out of LRFinder's loop
    def __init__(self, reason: Stopped) -> None:
        super().__init__(reason)
        self.reason = reason


class _WatchedBatches(library.TrainDataLoaderIter):  # type: ignore[misc]  # it has no types
    """Hands out batches, and looks before each at the loss of the step before."""

    def __init__(
        self,
        batches: BatchLoader,
        lr_finder: Any,
        agree: Callable[[float], float] | None,
        on_step: OnStep | None,
    ) -> None:
        super().__init__(batches)
        self._lr_finder = lr_finder
        self._agree = agree
        self._on_step = on_step
        self._lowest = math.inf
        self._seen = 0

    def __next__(self) -> tuple[Tensor, Tensor]:
        self.look_at_loss()
        images, targets = super().__next__()
        return images, targets

    def look_at_loss(self) -> None:
        """Report the newest loss.

        Raises:
            _StopEarly: it is not finite, or the loss diverges.
        """
        losses: list[float] = self._lr_finder.history["loss"]
        if len(losses) == self._seen:
            return
        self._seen = len(losses)
        if self._agree:
            losses[-1] = self._agree(losses[-1])
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
    """Leave nothing of the test in what it was given."""
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
    """Hide LRFinder's own bar and prints, for which it has no switch.

    Only its module's names are changed, and only for as long: redirecting the streams would
    hide warnings and the caller's own bar with them.
    """
    bar = library.tqdm
    library.tqdm, library.print = iter, _print_nothing
    try:
        yield
    finally:
        library.tqdm = bar
        del library.print


def _print_nothing(*_: object) -> None:
    pass
