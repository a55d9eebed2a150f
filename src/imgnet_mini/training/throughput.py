"""How many images a second: a loader alone, the training step alone, and both together."""

import time
from collections.abc import Generator, Iterator
from itertools import repeat
from typing import Final

import torch
from torch import Tensor, nn

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import build_train_loader
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import choose_precision
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.signals import StopRequest

Batches = Iterator[tuple[Tensor, Tensor]]

_LR: Final = 1e-5
"""So low that the weights stay finite whatever is trained on."""

_ENDLESS: Final = 10**9


class TimedLoader:
    """What a loader gives for some seconds, in a loader's place; tells how fast it was taken.

    seconds: counted from the end of a warm-up to the end of the last step on the device; of each,
        there is one step at least, however long it takes.
    warm_up: batches at most, and for `seconds` at most: they start workers, choose kernels, and
        use up what was loaded in advance.
    """

    def __init__(
        self, batches: Batches, batch_size: int, *, seconds: float, warm_up: int = 2
    ) -> None:
        self.images_per_step = batch_size
        self._batches = batches
        self._limit = seconds
        self._warm_up = warm_up
        self._rate = 0.0

    def __len__(self) -> int:
        """Unknown in advance."""
        return 0

    @property
    def images_per_second(self) -> float:
        """Once the stretch is over."""
        return self._rate

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """The batches, whatever the epoch."""
        del epoch, start
        yield from self._take(at_most=self._warm_up)
        _wait_for_device()
        began = time.perf_counter()
        steps = 0
        for batch in self._take():
            yield batch
            steps += 1
        _wait_for_device()
        self._rate = steps * self.images_per_step / (time.perf_counter() - began)

    def _take(self, *, at_most: int | None = None) -> Batches:
        began = time.perf_counter()
        taken = 0
        while taken != at_most and (taken == 0 or time.perf_counter() - began < self._limit):
            yield next(self._batches)
            taken += 1


class TrainingBenchmark:
    """Training under some settings, to be timed: its loader, its steps, or both."""

    def __init__(
        self,
        config: RunConfig,
        images: ImageSplits,
        model: nn.Module,
        logger: RunLogger,
        stop: StopRequest,
    ) -> None:
        self._data = config.data
        self._history = logger
        self._stop = stop
        device = next(model.parameters()).device
        optimizer = build_optimizer(config.optimizer, model, lr=_LR)
        self._trainer = Trainer(
            model,
            build_loss(config.optimizer),
            optimizer,
            build_scheduler(config.schedule, optimizer, max_lr=_LR, total_steps=_ENDLESS),
            choose_precision(config.runtime, device),
            compiled=config.runtime.compile,
            grad_accum_steps=config.data.grad_accum_steps,
            clip_grad=config.optimizer.clip_grad,
            ema_decay=config.optimizer.ema_decay,
        )
        self._loader = build_train_loader(
            config.data, images, seed=config.runtime.seed, device=device
        )

    def close(self) -> None:
        """End what works in the background."""
        self._loader.close()

    def fixed_batch(self) -> Batches:
        """One batch of the images, again and again."""
        return repeat(next(self._loader.endless()))

    def loading(self, seconds: float) -> float:
        """Images per second that arrive on the device when nothing else is done."""
        stretch = self._stretch(self._loader.endless(), seconds)
        for _ in stretch.epoch(0):
            self._stop.check()
        return stretch.images_per_second

    def training(self, seconds: float, batches: Batches | None = None) -> float:
        """Images per second through the loop that `train` runs, on the loader's batches or these.

        Raises:
            StopRequestedError: a signal has come.
        """
        stretch = self._stretch(self._loader.endless() if batches is None else batches, seconds)
        self._trainer.train_epoch(stretch, self._history, self._stop)
        self._trainer.state.finish_epoch(0.0)
        return stretch.images_per_second

    def _stretch(self, batches: Batches, seconds: float) -> TimedLoader:
        warm_up = 2 + 2 * self._data.workers
        at_once = self._data.batch_size // self._data.grad_accum_steps
        return TimedLoader(batches, at_once, seconds=seconds, warm_up=warm_up)


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
