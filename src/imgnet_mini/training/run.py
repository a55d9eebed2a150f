"""The parts of a run, and the files it writes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from imgnet_mini.checkpoint.host_copy import HostCopier, HostCopy
from imgnet_mini.checkpoint.schema import BestCheckpoint, RunCheckpoint
from imgnet_mini.checkpoint.store import CheckpointStore, tensor_bytes
from imgnet_mini.config.run_config import ResolvedConfig
from imgnet_mini.data.folder import fingerprint
from imgnet_mini.data.run_images import write_image_list
from imgnet_mini.data.sampler import build_progressive_resize
from imgnet_mini.errors import (
    ConfigError,
    ImgnetMiniError,
    StoppedError,
)
from imgnet_mini.reporting.summary import summarize_model
from imgnet_mini.runs.logger import NullLogger, RunLogger, write_logs
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord, Phase
from imgnet_mini.runs.results import RunEnvironment
from imgnet_mini.training.device import less_memory
from imgnet_mini.training.evaluation import Metrics, TopKPredictions, Validation
from imgnet_mini.training.hours import TimePlan
from imgnet_mini.training.resume_hint import resume_command, resume_hint
from imgnet_mini.training.setup import Setup, describe_environment, hyper_parameters
from imgnet_mini.training.train_state import StepLogger, TrainState
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.atomic_file import free_bytes, write_text
from imgnet_mini.utils.background import BackgroundThread
from imgnet_mini.utils.console import format_bytes, print_lines

if TYPE_CHECKING:
    from imgnet_mini.training.pictures import TrainingPictures

_RECORDED = (
    *("imgnet_mini", "torch", "torchvision", "pillow"),
    *("device", "threads", "world_size", "precision"),
)
"""Parts of the environment that decide the bits of a result."""


@dataclass
class TrainingRun:
    """The parts of a run. Only the main process holds the run's lock, has a logger, and writes.

    time_plan: of a run with `--hours`, which once changes the number of epochs.
    """

    config: ResolvedConfig
    paths: RunPaths
    setup: Setup
    trainer: Trainer
    logger: RunLogger | None
    store: CheckpointStore
    time_plan: TimePlan | None = None

    @cached_property
    def saving(self) -> BackgroundThread:
        """The thread that writes checkpoints while training goes on."""
        return BackgroundThread("imgnet-mini-save", self.store.cancel)

    def begin(self, *, new_plan: bool) -> None:
        """Write the files of the run.

        new_plan: first save a checkpoint, so that the run can be resumed from the start.
        """
        if new_plan:
            self._warn_of_small_disk()
            self.save()
        if self.logger is None:
            return
        write_text(self.paths.config, self.config.to_toml())
        self._describe_start()
        precision = {"precision": self.setup.precision.name}
        self.logger.log_hparams(hyper_parameters(self.config) | precision, self.config.to_toml())
        self.logger.write()

    def _describe_start(self) -> None:
        """Write what the run was started with, or update the files that it goes without."""
        environment, images = describe_environment(self.setup), self.setup.images
        if not self.paths.environment.exists():
            environment |= {"recipe": self.config.recipe}
            RunEnvironment.model_validate(environment).write(self.paths.environment)
            summary = summarize_model(self.setup.model, self.config.data.img_size)
            write_text(self.paths.model_summary, summary)
        elif images.resumed is not None and images.resumed.dropped:
            skipped = {"skipped": tuple(environment["skipped"])}
            started = RunEnvironment.read(self.paths.environment)
            started.model_copy(update=skipped).write(self.paths.environment)
        if images.pack is None and not self.paths.images.exists() and not images.has_changes:
            write_image_list(self.paths.images, images.train, images.val)

    def save(self) -> None:
        """Save a checkpoint; all that it counts as logged is written before."""
        if (write := self._checkpoint_writer()) is not None:
            write()

    def save_in_background(self) -> None:
        """Copy the state to host memory and save it while training goes on."""
        if (write := self._checkpoint_writer()) is not None:
            self.saving.start(write)

    def _checkpoint_writer(self) -> Callable[[], None] | None:
        """Return the function that writes the current state; None on ranks that write nothing."""
        made = self._checkpoint()  # first: it fails if training has diverged
        if self.logger is None or made is None:
            return None
        self.logger.flush()
        copied, checkpoint = made

        def write() -> None:
            copied.wait()
            self.store.save(checkpoint)

        return write

    def change_epochs(self, config: ResolvedConfig) -> None:
        """Continue with the same settings but for the number of epochs, at the present step."""
        self.config = config
        self.__dict__.pop("_origin", None)
        loader, epochs = self.setup.train_loader, config.schedule.epochs
        loader.resize_progressively(build_progressive_resize(config.data, epochs))
        self.trainer.change_length(config.schedule, epochs * len(loader))
        if self.logger is not None:
            write_text(self.paths.config, config.to_toml())

    def finish_epoch(self, trained: Metrics, validation: Validation) -> None:
        """Log an epoch and save it in the background; a run killed meanwhile repeats the epoch.

        With EMA, the averaged weights decide which epoch is the best.
        """
        state = self.trainer.state
        measured: dict[Phase, Metrics] = {"train": trained}
        measured |= {phase: metrics for phase, (metrics, _) in validation.items()}
        records = [_record(state, phase, metrics) for phase, metrics in measured.items()]
        validated, predictions = validation.get("ema", validation["val"])
        if self.logger is not None:
            best_top1 = max(state.best_top1, validated.top1)
            self._log_images(self.logger, predictions, best_top1=best_top1)
            for phase, (metrics, _) in validation.items():
                self.logger.log_balanced_top1(phase, metrics.balanced_top1, state.epoch)
            self.logger.log_epoch(*records)
        is_best = state.finish_epoch(validated.top1)
        made = self._checkpoint()
        if self.logger is None or made is None:
            return
        copied, checkpoint = made
        best = self._best_checkpoint(checkpoint, validated) if is_best else None
        logged = list(self.logger.records)

        def write() -> None:
            copied.wait()
            if best is not None:
                self.store.save_best(best, step=checkpoint.state.step)
            self.store.save(checkpoint)
            write_logs(self.paths, logged)

        self.saving.start(write)
        print_lines(*(record.to_line() for record in records))

    @property
    def resume_command(self) -> str:
        """The command that continues the run, with as many processes."""
        return resume_command(self.config, self.setup)

    def less_memory(self) -> str:
        """Return advice on memory, to end a message with: empty if the run has to be resumed."""
        if self._has_steps:
            return ""
        return less_memory(self.config, self.setup.distributed.world_size)

    @contextmanager
    def add_resume_hint(self) -> Iterator[None]:
        """Add what is safe to an error, and the command that continues the run."""
        try:
            yield
        except StoppedError:  # has it already
            raise
        except ImgnetMiniError as error:
            newest = self.store.newest
            if isinstance(error, ConfigError) and not self._has_steps:
                error.add_note("Nothing is lost: correct the command, and run train again")
            elif newest is not None:
                error.add_note(
                    f"Safe: step {newest.step} (epoch {newest.epoch}), in {self.paths.checkpoint}. "
                    f"{resume_hint(error, self.config, self.setup)}"
                )
            raise

    @property
    def _has_steps(self) -> bool:
        return self.store.newest is not None and self.store.newest.step > 0

    def _log_images(
        self, logger: RunLogger, predictions: TopKPredictions, *, best_top1: float
    ) -> None:
        """Log images and, after the last epoch, the best top-1, before the epoch is saved."""
        epoch, epochs = self.trainer.state.epoch, self.config.schedule.epochs
        if _is_shown(epoch, epochs):
            samples = self._pictures.draw_samples(predictions)
            if samples is not None:
                logger.log_image("val/samples", samples, epoch)
        if epoch + 1 == epochs:
            confusions = self._pictures.draw_confusions(predictions)
            if confusions is not None:
                logger.log_image("val/confusion_matrix", confusions, epoch)
            logger.log_end(best_top1, epoch)

    @property
    def step_logger(self) -> StepLogger:
        """Logger of training steps; it does nothing on ranks that write nothing."""
        return NullLogger() if self.logger is None else self.logger

    def close(self) -> None:
        """Close the event file."""
        if self.logger is not None:
            self.logger.close()

    @cached_property
    def _pictures(self) -> "TrainingPictures":
        from imgnet_mini.training.pictures import TrainingPictures  # noqa: PLC0415 - matplotlib

        return TrainingPictures(self.setup.images.val, self.config.data.decoding)

    def _checkpoint(self) -> tuple[HostCopy, RunCheckpoint] | None:
        """Return the state of the run, complete once its tensors are copied to the host.

        All ranks must call; those that write nothing get None.
        """
        state = self.trainer.state_dict()
        if self.logger is None:
            return None
        self.saving.wait()  # else a checkpoint would change while it is written
        copied = self._host_copier.copy(state)
        records = [asdict(record) for record in self.logger.records]
        plan = None if self.time_plan is None else self.time_plan.to_dict()
        own = {"records": records, "time_plan": plan, "tracking": self.logger.tracking}
        content = copied.state | self._origin | own
        return copied, RunCheckpoint.model_validate(content)

    @cached_property
    def _host_copier(self) -> HostCopier:
        return HostCopier()

    def _best_checkpoint(self, checkpoint: RunCheckpoint, metrics: Metrics) -> BestCheckpoint:
        weights = {"model": checkpoint.model}
        if checkpoint.ema is not None:
            weights = {"model": checkpoint.ema, "raw": checkpoint.model}
        epoch = {"epoch": checkpoint.state.best_epoch, "metrics": asdict(metrics)}
        return BestCheckpoint.model_validate(weights | epoch | self._origin)

    @cached_property
    def _origin(self) -> dict[str, Any]:
        """Settings, images and environment of the run, as fields of its checkpoints."""
        images, environment = self.setup.images, describe_environment(self.setup)
        resumed = images.resumed
        return {
            "config": self.config.model_dump(mode="json"),
            "classes": list(images.train.classes),
            "images": fingerprint(images.train, images.val) if resumed is None else resumed.digest,
            "skipped": dict(images.skipped),
            "dropped": {} if resumed is None else dict(resumed.dropped),
            "changed": {} if resumed is None else dict(resumed.changed),
            "pack": images.pack.manifest.id if images.pack is not None else None,
            "class_weights": list(self.setup.class_weights or ()) or None,
            "environment": {name: environment[name] for name in _RECORDED},
        }

    def _warn_of_small_disk(self) -> None:
        size = tensor_bytes(self.trainer.state_dict())
        needed = size * (self.config.checkpoint.keep + 2)  # one is written beside the old ones
        free = free_bytes(self.paths.checkpoint_dir)
        if free < needed:
            print_lines(
                f"Note: checkpoints will take up to {format_bytes(needed)}, and "
                f"{self.paths.checkpoint_dir} has {format_bytes(free)} free"
            )


def _is_shown(epoch: int, epochs: int) -> bool:
    """Return True after the 1st, 2nd, 4th, 8th epoch and so on, and after the last."""
    count = epoch + 1
    return count == epochs or count & (count - 1) == 0


def _record(state: TrainState, phase: Phase, metrics: Metrics) -> EpochRecord:
    return EpochRecord(
        state.epoch, phase, metrics.loss, metrics.top1, metrics.top5, state.lr, metrics.imgs_per_sec
    )
