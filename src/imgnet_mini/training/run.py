"""A run in motion: its parts, and what it writes of itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.checkpoint.store import CheckpointStore, tensor_bytes
from imgnet_mini.config.flags import run_flags
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig
from imgnet_mini.data.folder import fingerprint
from imgnet_mini.errors import DataError, DivergedError, ImgnetMiniError, StoppedError
from imgnet_mini.reporting.summary import summarise_model
from imgnet_mini.runs.environment import RunEnvironment
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord, Phase
from imgnet_mini.training.environment import describe_environment
from imgnet_mini.training.evaluation import Metrics, TopKPredictions, Validation
from imgnet_mini.training.pictures import TrainingPictures, is_shown
from imgnet_mini.training.setup import Setup
from imgnet_mini.training.train_state import TrainState
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.atomic_file import free_bytes, write_text
from imgnet_mini.utils.console import format_bytes, print_lines

RECORDED = (
    *("imgnet_mini", "torch", "torchvision", "pillow"),
    *("device", "threads", "ranks", "precision"),
)
"""What of the environment decides the bits of a result, besides the settings."""

_WITHOUT_EFFECT = {
    *("workers", "loader", "pack_on_device", "skip_bad", "allow_missing_val_classes"),
    *("device", "compile", "amp"),
}
"""Settings that hardly change what a run comes to; of `amp`, the precision tells more."""


@dataclass(frozen=True)
class TrainingRun:
    """What `train` and `resume` have put together. Rank 0 has the run's lock, and alone writes."""

    config: ResolvedConfig
    paths: RunPaths
    setup: Setup
    trainer: Trainer
    logger: RunLogger
    store: CheckpointStore

    def begin(self, *, new_plan: bool) -> None:
        """Write the files of the run; first a checkpoint, where it begins or its plan changes.

        So there is something to resume from its first moment on.
        """
        if new_plan:
            self._warn_of_small_disk()
            self.save()
        if not self.setup.distributed.is_main_process:
            return
        write_text(self.paths.config, self.config.to_toml())
        if not self.paths.environment.exists():
            environment = describe_environment(self.setup) | {"recipe": self.config.recipe}
            RunEnvironment.model_validate(environment).write(self.paths.environment)
            summary = summarise_model(self.setup.model, self.config.data.img_size)
            write_text(self.paths.model_summary, summary)
        precision = {"precision": self.setup.precision.name}
        self.logger.log_hparams(_hyper_parameters(self.config) | precision, self.config.to_toml())
        self.logger.write()

    def save(self) -> None:
        """Save a checkpoint; what it counts as logged is on the disk before."""
        content = self._content()  # first: what diverged is not even logged
        if self.setup.distributed.is_main_process:
            self.logger.flush()
            self.store.save(content)

    def finish_epoch(self, trained: Metrics, validation: Validation) -> None:
        """Log an epoch and save; a run that is killed on the way makes the epoch again.

        The averaged weights, where there are any, decide which epoch is the best, and are kept.
        """
        state, writes = self.trainer.state, self.setup.distributed.is_main_process
        measured: dict[Phase, Metrics] = {"train": trained}
        measured |= {phase: metrics for phase, (metrics, _) in validation.items()}
        records = [_record(state, phase, metrics) for phase, metrics in measured.items()]
        validated, answers = validation.get("ema", validation["val"])
        if writes:
            self._show(answers, best_top1=max(state.best_top1, validated.top1))
            self.logger.log_epoch(*records)
        is_best = state.finish_epoch(validated.top1)
        content = self._content()
        if not writes:
            return
        if is_best:
            best = {"model": content["model"]}
            if "ema" in content:
                best = {"model": content["ema"], "raw": content["model"]}
            best |= {"epoch": state.best_epoch, "metrics": asdict(validated)} | self._identity
            self.store.save_best(best, step=state.step)
        self.store.save(content)
        self.logger.write()
        print_lines(*(record.to_line() for record in records))

    @contextmanager
    def add_resume_hint(self) -> Iterator[None]:
        """Let an error say also how to go on."""
        try:
            yield
        except StoppedError:  # says it itself
            raise
        except ImgnetMiniError as error:
            newest = self.store.newest
            if newest is not None:
                error.add_note(
                    f"Safe: step {newest.step} (epoch {newest.epoch}), in {self.paths.checkpoint}. "
                    f"{self._way_on(error)}"
                )
            raise

    def _way_on(self, error: ImgnetMiniError) -> str:
        resume = f"imgnet-mini resume{run_flags(self.config.run)}"
        if isinstance(error, DataError):  # without the file it would be another run
            return (
                f"To go on from there, restore the file as it was, and then:\n  {resume}\n"
                "Without it, this is another run: choose another --name for it, or --overwrite"
            )
        plan = " --max-lr LOWER --replan" if isinstance(error, DivergedError) else ""
        return f"To go on from there:\n  {resume}{plan}"

    def _show(self, answers: TopKPredictions, *, best_top1: float) -> None:
        """Bring to TensorBoard what there is to see after this epoch, before it is saved."""
        epoch, epochs = self.trainer.state.epoch, self.config.schedule.epochs
        if is_shown(epoch, epochs):
            samples = self._pictures.draw_samples(answers)
            if samples is not None:
                self.logger.log_image("val/samples", samples, epoch)
        if epoch + 1 == epochs:
            confusions = self._pictures.draw_confusions(answers)
            if confusions is not None:
                self.logger.log_image("val/confusion_matrix", confusions, epoch)
            self.logger.log_end(best_top1, epoch)

    @cached_property
    def _pictures(self) -> TrainingPictures:
        return TrainingPictures(self.setup.images.val)

    def _content(self) -> Content:
        trained = self.trainer.state_dict()
        if not self.setup.distributed.is_main_process:
            return trained
        records: list[dict[str, Any]] = [asdict(record) for record in self.logger.records]
        return trained | self._identity | {"records": records}

    @cached_property
    def _identity(self) -> Content:
        """What a checkpoint belongs to."""
        images, environment = self.setup.images, describe_environment(self.setup)
        return {
            "config": self.config.model_dump(mode="json"),
            "classes": list(images.train.classes),
            "images": fingerprint(images.train, images.val),
            "skipped": dict(images.skipped),
            "pack": images.pack.manifest.id if images.pack is not None else None,
            "environment": {name: environment[name] for name in RECORDED},
        }

    def _warn_of_small_disk(self) -> None:
        # Momentum and averages take as much as the weights; a new one is written beside the old.
        copies = 3 if self.config.optimizer.ema_decay else 2
        weights = tensor_bytes(self.setup.model.state_dict())
        needed = copies * weights * (self.config.checkpoint.keep + 2)
        free = free_bytes(self.paths.checkpoint_dir)
        if free < needed:
            print_lines(
                f"Note: checkpoints will take up to {format_bytes(needed)}, and "
                f"{self.paths.checkpoint_dir} has {format_bytes(free)} free"
            )


def _hyper_parameters(config: RunConfig) -> dict[str, float | str]:
    """The settings in which two runs may differ, by name; TensorBoard takes a bool for a number."""
    settings: dict[str, float | str] = {}
    for section in ("data", "model", "optimizer", "schedule", "runtime"):
        for name, value in (
            getattr(config, section).model_dump(exclude=_WITHOUT_EFFECT, exclude_none=True).items()
        ):
            settings[name] = str(value).lower() if isinstance(value, bool) else value
    return settings


def _record(state: TrainState, phase: Phase, metrics: Metrics) -> EpochRecord:
    return EpochRecord(
        epoch=state.epoch,
        phase=phase,
        loss=metrics.loss,
        top1=metrics.top1,
        top5=metrics.top5,
        lr=state.lr,
        imgs_per_sec=metrics.imgs_per_sec,
    )
