"""The training step and the epoch."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from itertools import islice
from typing import Any, Final

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imgnet_mini.config.training_settings import ResolvedSchedule
from imgnet_mini.data.loaders import BatchLoader, Loader
from imgnet_mini.data.rng import hash_seed
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext, no_sync
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.errors import CheckpointError, DivergedError
from imgnet_mini.runs.records import Phase
from imgnet_mini.training import optim
from imgnet_mini.training.batch_counts import BatchCounts
from imgnet_mini.training.compilation import compile_per_size
from imgnet_mini.training.ema import ModelEma, load_ema
from imgnet_mini.training.evaluation import Metrics, Validation, evaluate
from imgnet_mini.training.precision import MIN_SCALE, FiniteBuffers, Precision
from imgnet_mini.training.step_undo import StepUndo, take_steps
from imgnet_mini.training.train_state import (
    StepBuffer,
    StepLogger,
    TrainState,
    random_state,
    set_random_state,
)
from imgnet_mini.utils.finite import all_finite
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

_BUFFERED_STEPS: Final = 64


class Trainer:
    """A model, its optimizer and its schedule, trained step by step.

    total_steps: length of the schedule; the learning rate stays at its last value from there on.
    compile_mode: of torch.compile; None: do not compile.
    grad_accum_steps: micro-batches of the loader per training step.
    clip_grad: clip gradients to this global norm.
    ema_decay: decay of the moving average of the weights; 0 for none.
    distributed: the ranks that make each step together.
    hint: what a `DivergedError` advises.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.CrossEntropyLoss,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        precision: Precision,
        *,
        total_steps: int | None = None,
        compile_mode: str | None = None,
        grad_accum_steps: int = 1,
        clip_grad: float | None = None,
        ema_decay: float = 0.0,
        distributed: DistributedContext = SINGLE_PROCESS,
        hint: str = "try a lower learning rate",
    ) -> None:
        self.model = model
        self._ema = ModelEma(model, ema_decay) if ema_decay else None
        self._networks = {"model": model} | ({"ema": self._ema.model} if self._ema else {})
        self._batch_counts = BatchCounts(model)
        self._ddp_model = distributed.wrap_ddp(model)
        self._mark_step = compile_per_size(self._ddp_model, compile_mode)
        self._criterion, self._precision = criterion, precision
        self._optimizer, self._scheduler = optimizer, scheduler
        self._scaler = precision.build_scaler(clip_grad)
        self._statistics = FiniteBuffers(model) if self._scaler.is_enabled() else None
        self._last_step = math.inf if total_steps is None else total_steps - 1
        self._grad_accum_steps = grad_accum_steps
        self._distributed, self._hint = distributed, hint
        self._buffer = StepBuffer(_BUFFERED_STEPS, next(model.parameters()).device)
        self._undo = StepUndo(model, self._buffer, optimizer, distributed)
        self.state = TrainState()

    def train_step(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take one optimizer step; the host does not wait for the device.

        batches: one micro-batch per `grad_accum_steps`, all of one size: images (N, 3, H, W) float
            and targets (N,) int64, or (N, C) class probabilities.
        """
        self._mark_step()
        if self._statistics is not None:
            self._statistics.remember()
        for number, (images, targets) in enumerate(islice(batches, self._grad_accum_steps), 1):
            is_last = number == self._grad_accum_steps
            with nullcontext() if is_last else no_sync(self._ddp_model):
                with self._precision.autocast(), self._batch_counts:
                    logits = self._ddp_model(images)
                    loss = self._criterion(logits, targets) / self._grad_accum_steps
                self._scaler.scale(loss).backward()
            self._buffer.add(loss.detach(), logits.detach(), targets)
        self._undo.begin_update()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._statistics is not None:
            self._statistics.restore()
        if self._ema is not None:
            self._ema.update(self.state.step)
        self.state.lr = self.lr
        self._buffer.finish_step(self.state.lr)
        self.state.step += 1
        self.state.batch += 1
        if self.state.step <= self._last_step:
            self._scheduler.step()

    def train_epoch(
        self,
        loader: BatchLoader,
        logger: StepLogger,
        stop: StopRequest,
        *,
        save: Callable[[], None] = lambda: None,
        save_seconds: float = math.inf,
        check: Callable[[], None] = lambda: None,
        label: str = "",
    ) -> Metrics:
        """Take the remaining steps of the current epoch.

        save: called when `save_seconds` have passed since the start or the last call, with all
            steps so far counted and logged.
        check: called about once a second; its errors end the epoch.
        label: of the progress bar; default: the epoch.

        Raises:
            DivergedError: a loss is not finite.
            StopRequestedError: a signal was received; all steps so far are counted and logged.
            DataError: an image cannot be decoded.
        """
        self._ddp_model.train()
        state = self.state
        images_per_step = loader.images_per_step
        label = label or f"Epoch {state.epoch:03d} train"
        saved_at = time.perf_counter()
        started = saved_at - state.seconds
        rank_sync = RankSync(self._distributed, stop, max_steps=_BUFFERED_STEPS)
        with (
            closing(take_steps(loader, state, self.train_step, self._undo)) as steps,
            progress_bar(label, len(loader), done=state.batch) as bar,
        ):
            try:
                for _ in steps:
                    if rank_sync.should_sync():
                        self._read_buffer(logger)  # blocking
                        now = time.perf_counter()
                        state.seconds = now - started
                        bar.show(state.batch, state.metrics(images_per_step).to_text(state.lr))
                        check()
                        if rank_sync.sync(now - saved_at > save_seconds):
                            save()
                            saved_at = time.perf_counter()
                    rank_sync.check()
            except StopRequestedError:
                self._read_buffer(logger)
                state.seconds = time.perf_counter() - started
                raise
            self._read_buffer(logger)
        state.seconds = time.perf_counter() - started
        if state.skipped == state.batch:
            raise DivergedError(
                f"activations overflow fp16 in all steps of epoch {state.epoch}: {self._hint}"
            )
        return state.metrics(images_per_step)

    def validate(self, loader: Loader, stop: StopRequest) -> Validation:
        """Evaluate the model, and its averaged weights if any, in a precision that cannot overflow.

        Raises:
            DivergedError: a loss is not finite.
        """
        results: Validation = {}
        for name, network in self._networks.items():
            phase: Phase = "ema" if name == "ema" else "val"
            self._distributed.broadcast_buffers(network)
            metrics, predictions = evaluate(
                network,
                loader,
                self._precision.for_validation,
                stop,
                distributed=self._distributed,
                label_smoothing=self._criterion.label_smoothing,
                label=f"Epoch {self.state.epoch:03d} {phase}",
            )
            if not math.isfinite(metrics.loss):
                raise DivergedError(
                    f"the validation loss became {metrics.loss} after epoch {self.state.epoch}: "
                    f"{self._hint}"
                )
            results[phase] = metrics, predictions
        return results

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def change_length(self, schedule: ResolvedSchedule, total_steps: int) -> None:
        """Continue at the present step of a schedule of another length."""
        self._scheduler = optim.build_scheduler(
            schedule, self._optimizer, max_lr=schedule.max_lr, total_steps=total_steps
        )
        self._last_step = total_steps - 1
        optim.fast_forward(self._scheduler, int(min(self.state.step, self._last_step)))

    def state_dict(self) -> dict[str, Any]:
        """Return all that later steps depend on, of all ranks, as tensors and plain data.

        Raises:
            DivergedError: a weight, a buffer or a tensor of the optimizer is not finite.
        """
        self._check_finite()
        rng, *rng_of_others = self._distributed.all_gather(random_state())
        return {
            **{name: network.state_dict() for name, network in self._networks.items()},
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
            "state": self.state.to_dict(),
            "rng": rng,
            "rng_of_others": rng_of_others,
        }

    def load_state_dict(self, state: dict[str, Any], *, replan: bool = False) -> None:
        """Continue from a `state_dict`.

        The hyper-parameters and the schedule stay those that this trainer was built with.

        replan: allow them to differ from the saved ones.

        Raises:
            CheckpointError: the state does not fit this model, optimizer or schedule.
        """
        try:
            self._load(state, replan=replan)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise CheckpointError(f"the checkpoint does not fit this run: {first}") from error

    def _load(self, state: dict[str, Any], *, replan: bool) -> None:
        self.model.load_state_dict(state["model"])
        load_ema(self._ema, state.get("ema"))
        step = state["state"]["step"]
        optim.load_optimizer(self._optimizer, state["optimizer"])
        optim.fast_forward(self._scheduler, int(min(step, self._last_step)))
        if not replan:
            optim.check_same_plan(self._optimizer, self._scheduler, state)
        if state["scaler"] and self._scaler.is_enabled():  # empty without gradient scaling
            self._scaler.load_state_dict(state["scaler"])
        self.state = TrainState(**state["state"])
        states, rank = [state["rng"], *state["rng_of_others"]], self._distributed.rank
        set_random_state(states, rank, fallback=hash_seed(step, rank))

    def _read_buffer(self, logger: StepLogger) -> None:
        """Log and count the buffered steps, averaged over the ranks. Blocking.

        A loss that is not finite ends the run, unless the scaler has skipped the step.
        """
        losses, lrs, top1, top5 = self._buffer.read(self._distributed)
        first_step = self.state.step - len(losses)
        logger.log_steps(first_step, losses, lrs)
        for offset, (loss, lr) in enumerate(zip(losses, lrs, strict=True)):
            if math.isfinite(loss):
                self.state.loss_sum += loss
            elif self._scaler.is_enabled():
                self.state.skipped += 1
            else:
                batch = self.state.batch - len(losses) + offset
                raise DivergedError(
                    f"the loss became {loss} in epoch {self.state.epoch}, batch {batch} (step "
                    f"{first_step + offset}) at a learning rate of {lr:.3g}: {self._hint}"
                )
        if self._scaler.is_enabled() and self._scaler.get_scale() < MIN_SCALE:
            raise DivergedError(
                "activations or gradients overflow fp16 step after step, up to step "
                f"{self.state.step}: {self._hint}"
            )
        self.state.top1 += top1
        self.state.top5 += top5

    def _check_finite(self) -> None:
        """Check the weights, the buffers and the optimizer's state. Blocking."""
        tensors = optim.state_tensors(self._optimizer)
        for network in self._networks.values():
            tensors += network.state_dict().values()
        if not all_finite(tensors):
            raise DivergedError(
                f"a weight is no longer finite after step {self.state.step}: {self._hint}"
            )
