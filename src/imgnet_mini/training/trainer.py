"""The training step and the epoch."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import asdict
from itertools import chain, islice
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from imgnet_mini.data.loaders import BatchLoader, Loader
from imgnet_mini.data.rng import hash_seed
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext, no_sync
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.errors import CheckpointError, DivergedError
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.records import Phase
from imgnet_mini.training.ema import ModelEma, load_ema
from imgnet_mini.training.evaluation import (
    Metrics,
    TopKPredictions,
    Validation,
    evaluate,
    topk_classes,
    topk_correct,
)
from imgnet_mini.training.optim import (
    check_same_settings,
    fast_forward,
    load_optimizer,
    momentum_buffers,
)
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.train_state import TrainState, random_state, set_random_state
from imgnet_mini.utils.finite import all_finite
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

_UNREAD_STEPS: Final = 64
_LEAST_SCALE: Final = 1.0
"""Scaling starts at 65536 and is halved by each overflow; below this, gradients hold no numbers."""


class Trainer:
    """The parts of a run in motion.

    accumulate: batches of the loader that make one step.
    clip_norm: the largest norm of its gradient.
    ema_decay: the decay of a moving average of the weights; 0 for none.
    distributed: the processes of the run; they make each step together.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.CrossEntropyLoss,
        optimizer: SGD,
        scheduler: OneCycleLR,
        precision: Precision,
        *,
        compiled: bool = False,
        grad_accum_steps: int = 1,
        clip_grad: float | None = None,
        ema_decay: float = 0.0,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        self.model = model
        self._average = ModelEma(model, ema_decay) if ema_decay else None
        averaged = {} if self._average is None else {"ema": self._average.model}
        self._networks = {"model": model, **averaged}
        self._parallel = distributed.wrap_ddp(model)
        if compiled:
            self._parallel.compile()
        self._accumulate = grad_accum_steps
        self._distributed = distributed
        self._criterion = criterion
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._precision = precision
        self._scaler = precision.build_scaler(clip_grad)
        self.state = TrainState()
        device = next(model.parameters()).device
        self._losses = torch.zeros(_UNREAD_STEPS, device=device)
        self._hits = torch.zeros(2, dtype=torch.int64, device=device)
        self._rates: list[float] = []

    def train_step(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take one step on all of these batches together, waiting for nothing.

        batches: as many of equal size as are accumulated; (N, 3, H, W) float and (N,) each, or
            (N, C) shares of classes.
        """
        unread = len(self._rates)
        self._losses[unread] = 0
        for part, (images, targets) in enumerate(batches, 1):
            is_inner = part < self._accumulate
            with no_sync(self._parallel) if is_inner else nullcontext():
                with self._precision.autocast():
                    logits = self._parallel(images)
                    loss = self._criterion(logits, targets) / self._accumulate
                self._scaler.scale(loss).backward()
            self._losses[unread] += loss.detach()
            self._hits += topk_correct(topk_classes(logits.detach()), targets)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update(self.state.step)
        self.state.lr = self.lr
        self._rates.append(self.state.lr)
        self.state.step += 1
        self.state.batch += 1
        if self.state.step < self._scheduler.total_steps:  # one more would jump up again
            self._scheduler.step()

    def train_epoch(
        self,
        loader: BatchLoader,
        logger: RunLogger,
        stop: StopRequest,
        *,
        save: Callable[[], None] = lambda: None,
        save_seconds: float = math.inf,
        label: str = "",
    ) -> Metrics:
        """Take the remaining steps of the current epoch.

        save: called within it whenever so many seconds have passed since its start or the last
            time; all is counted and logged up to the last step.
        label: of the bar; the epoch's, if empty.

        Raises:
            DivergedError: a loss is not finite.
            StopRequestedError: a signal has come; everything is counted up to the last step.
            DataError: an image cannot be decoded.
        """
        self._parallel.train()
        state = self.state
        images_per_step = loader.images_per_step
        label = label or f"Epoch {state.epoch:03d} train"
        began = saved_at = time.perf_counter()
        seconds_before = state.seconds
        rank_sync = RankSync(self._distributed, stop, max_steps=_UNREAD_STEPS)
        with (
            closing(loader.epoch(state.epoch, start=state.batch)) as batches,
            progress_bar(label, len(loader), done=state.batch) as bar,
        ):
            try:
                for first in batches:
                    self.train_step(chain((first,), islice(batches, self._accumulate - 1)))
                    if rank_sync.should_sync():
                        self._read(logger)
                        read_at = time.perf_counter()
                        state.seconds = seconds_before + read_at - began
                        now = self._epoch_metrics(images_per_step)
                        bar.show(state.batch, now.to_text(state.lr))
                        if rank_sync.sync(read_at - saved_at > save_seconds):
                            save()
                            saved_at = time.perf_counter()
                    rank_sync.check()
            except StopRequestedError:
                self._read(logger)
                state.seconds = seconds_before + time.perf_counter() - began
                raise
            self._read(logger)
        state.seconds = seconds_before + time.perf_counter() - began
        return self._epoch_metrics(images_per_step)

    def validate(self, loader: Loader, stop: StopRequest) -> Validation:
        """Evaluate the network in the precision it is trained in, and its averaged weights too.

        Raises:
            DivergedError: a loss is not finite.
        """
        phases: dict[str, Phase] = {"model": "val", "ema": "ema"}
        return {
            phases[name]: self._evaluate(network, loader, stop, phases[name])
            for name, network in self._networks.items()
        }

    def _evaluate(
        self, network: nn.Module, loader: Loader, stop: StopRequest, phase: Phase
    ) -> tuple[Metrics, TopKPredictions]:
        self._distributed.broadcast_buffers(network)
        metrics, answers = evaluate(
            network,
            loader,
            self._precision,
            stop,
            distributed=self._distributed,
            label_smoothing=self._criterion.label_smoothing,
            label=f"Epoch {self.state.epoch:03d} {phase}",
        )
        if not math.isfinite(metrics.loss):
            raise DivergedError(
                f"the validation loss became {metrics.loss} after epoch {self.state.epoch}: "
                f"{self._advice()}"
            )
        return metrics, answers

    @property
    def lr(self) -> float:
        """Learning rate of the step to come."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the steps to come depend on, as tensors and plain data; of all ranks.

        Raises:
            DivergedError: a weight or a statistic is not finite.
        """
        self._check_finite_weights()
        rng, *rng_of_others = self._distributed.all_gather(random_state())
        return {
            **{name: network.state_dict() for name, network in self._networks.items()},
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
            "state": asdict(self.state),
            "rng": rng,
            "rng_of_others": rng_of_others,
        }

    def load_state_dict(self, content: dict[str, Any], *, replan: bool = False) -> None:
        """Continue from what `state_dict` gave.

        replan: keep the schedule that this engine was built with, and take one's place in it.

        Raises:
            CheckpointError: it is that of another network.
        """
        try:
            self._load(content, replan=replan)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise CheckpointError(f"the checkpoint does not fit this run: {first}") from error

    def _load(self, content: dict[str, Any], *, replan: bool) -> None:
        self.model.load_state_dict(content["model"])
        load_ema(self._average, content.get("ema"))
        saved, step = content["optimizer"], content["state"]["step"]
        load_optimizer(self._optimizer, saved, step=step)
        fast_forward(self._scheduler, step=step)
        if not replan:
            check_same_settings(self._optimizer, self._scheduler, saved, content["scheduler"])
        if content["scaler"] and self._scaler.is_enabled():  # empty where nothing was scaled
            self._scaler.load_state_dict(content["scaler"])
        self.state = TrainState(**content["state"])
        states, rank = [content["rng"], *content.get("rng_of_others", ())], self._distributed.rank
        set_random_state(states, rank, fallback=hash_seed(step, rank))

    def _read(self, logger: RunLogger) -> None:
        """Bring the unread losses and hits to the host, from all ranks. Blocking."""
        size = self._distributed.world_size
        ours = [*self._losses[: len(self._rates)].tolist(), *self._hits.tolist()]
        *sums, top1, top5 = self._distributed.all_reduce_sum(ours)
        losses = [loss / size for loss in sums]
        first_step = self.state.step - len(losses)
        logger.log_steps(first_step, losses, self._rates)
        for offset, (loss, lr) in enumerate(zip(losses, self._rates, strict=True)):
            if not math.isfinite(loss):
                batch = self.state.batch - len(losses) + offset
                raise DivergedError(
                    f"the loss became {loss} in epoch {self.state.epoch}, batch {batch} (step "
                    f"{first_step + offset}) at a learning rate of {lr:.3g}: {self._advice()}"
                )
            self.state.loss_sum += loss
        if self._scaler.is_enabled() and self._scaler.get_scale() < _LEAST_SCALE:
            raise DivergedError(
                f"gradients overflow fp16 step after step, up to step {self.state.step}: "
                f"{self._advice()}, --precision bf16 or --no-amp"
            )
        self.state.top1 += round(top1)
        self.state.top5 += round(top5)
        self._hits.zero_()
        self._rates.clear()

    def _epoch_metrics(self, images_per_step: int) -> Metrics:
        state = self.state
        images = state.batch * images_per_step
        return Metrics(
            loss=state.loss_sum / state.batch,
            top1=100 * state.top1 / images,
            top5=100 * state.top5 / images,
            images=images,
            imgs_per_sec=images / state.seconds,
        )

    def _check_finite_weights(self) -> None:
        """Look at the weights, their statistics and their momenta. Blocking."""
        tensors = momentum_buffers(self._optimizer)
        for network in self._networks.values():
            tensors += network.state_dict().values()
        if not all_finite(tensors):
            raise DivergedError(
                f"a weight is no longer finite after step {self.state.step}: {self._advice()}"
            )

    def _advice(self) -> str:
        return f"try a lower --max-lr, such as {self._optimizer.param_groups[0]['max_lr'] / 2:.2g}"
