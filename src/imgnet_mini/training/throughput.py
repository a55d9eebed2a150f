"""Throughput in images per second: of the loader, of the training step, and of both."""

import time
from collections.abc import Callable, Generator, Iterator
from itertools import repeat
from typing import Final

from torch import Tensor, nn

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import BatchLoader, build_train_loader
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.training.compilation import choose_compile_mode
from imgnet_mini.training.device import wait_for_device
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import choose_precision
from imgnet_mini.training.train_state import StepLogger
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.signals import StopRequest

Batches = Iterator[tuple[Tensor, Tensor]]

_LR: Final = 1e-5
"""Low, so that the weights stay finite."""

_ENDLESS: Final = 10**9


class TimedLoader(BatchLoader):
    """A loader that yields batches for a limited time and measures the throughput.

    An epoch always starts anew, also where a step is repeated.

    make_batches: returns an endless iterator.
    spare: a loader that may free device memory.
    seconds: time limit of the warm-up, and then of the measurement; each has at least one batch.
    warm_up: maximum number of batches before the measurement, which start workers, choose kernels
        and use up prefetched batches.
    """

    def __init__(
        self,
        make_batches: Callable[[], Batches],
        batch_size: int,
        *,
        seconds: float,
        warm_up: int = 2,
        spare: BatchLoader | None = None,
    ) -> None:
        self.images_per_step = batch_size
        self._make_batches = make_batches
        self._spare = spare
        self._seconds = seconds
        self._warm_up = warm_up
        self._images_per_second = 0.0

    def __len__(self) -> int:
        """Return 0: the number of batches is not known in advance."""
        return 0

    @property
    def can_free_memory(self) -> bool:
        """Return whether `free_memory` would free device memory."""
        return self._spare is not None and self._spare.can_free_memory

    def free_memory(self) -> bool:
        """Free device memory that the batches can do without; return whether there was any."""
        return self._spare is not None and self._spare.free_memory()

    @property
    def images_per_second(self) -> float:
        """Throughput of the last epoch."""
        return self._images_per_second

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Yield and time the batches."""
        del epoch, start
        batches = self._make_batches()
        yield from self._limited(batches, at_most=self._warm_up)
        wait_for_device()
        started = time.perf_counter()
        steps = 0
        for batch in self._limited(batches):
            yield batch
            steps += 1
        wait_for_device()
        elapsed = time.perf_counter() - started
        self._images_per_second = steps * self.images_per_step / elapsed

    def _limited(self, batches: Batches, *, at_most: int | None = None) -> Batches:
        started = time.perf_counter()
        count = 0
        while count != at_most and (count == 0 or time.perf_counter() - started < self._seconds):
            yield next(batches)
            count += 1


class TrainingBenchmark:
    """Measures the loader, the training step, or both, under given settings."""

    def __init__(
        self,
        config: RunConfig,
        images: ImageSplits,
        model: nn.Module,
        logger: StepLogger,
        stop: StopRequest,
    ) -> None:
        self._data = config.data
        self._logger = logger
        self._stop = stop
        device = next(model.parameters()).device
        settings = config.optimizer.resolve(_LR, _ENDLESS)
        optimizer = build_optimizer(settings, model, lr=_LR)
        self._trainer = Trainer(
            model,
            build_loss(config.optimizer),
            optimizer,
            build_scheduler(config.schedule, optimizer, max_lr=_LR, total_steps=_ENDLESS),
            choose_precision(config.runtime, device),
            compile_mode=choose_compile_mode(config.runtime),
            grad_accum_steps=config.data.grad_accum_steps,
            clip_grad=config.optimizer.clip_grad,
            ema_decay=settings.ema_decay,
        )
        self.loader = build_train_loader(
            config.data, images, seed=config.runtime.seed, device=device
        )

    def close(self) -> None:
        """Stop background workers."""
        self.loader.close()

    def fixed_batch(self) -> Batches:
        """Return an endless iterator over one batch."""
        return repeat(next(self.loader.endless()))

    def loading(self, seconds: float) -> float:
        """Measure the loader alone, up to the device."""
        timed = self._timed(None, seconds)
        for _ in timed.epoch(0):
            self._stop.check()
        return timed.images_per_second

    def training(self, seconds: float, batches: Batches | None = None) -> float:
        """Measure the training loop, on the loader's batches or on those given.

        Raises:
            StopRequestedError: a signal was received.
        """
        timed = self._timed(batches, seconds)
        self._trainer.train_epoch(timed, self._logger, self._stop)
        self._trainer.state.finish_epoch(0.0)
        return timed.images_per_second

    def _timed(self, batches: Batches | None, seconds: float) -> TimedLoader:
        warm_up = 2 + 2 * self._data.workers
        micro_batch = self._data.batch_size // self._data.grad_accum_steps
        return TimedLoader(
            self.loader.endless if batches is None else lambda: batches,
            micro_batch,
            seconds=seconds,
            warm_up=warm_up,
            spare=self.loader,
        )
