"""Train a network from scratch: assemble the parts of a run and run its epochs."""

import math
import signal
import time
from contextlib import AbstractContextManager, closing, nullcontext

import torch

from imgnet_mini.checkpoint.manifest import has_steps
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig, run_flags
from imgnet_mini.data.loaders import build_eval_loader
from imgnet_mini.data.rng import hash_seed
from imgnet_mini.data.sampler import build_progressive_resize, pixel_fraction
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import ConfigError, StoppedError
from imgnet_mini.runs.lock import lock_run
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.tracking import build_tracker, check_tracker
from imgnet_mini.training.class_weights import describe_class_weights
from imgnet_mini.training.compilation import report_compilation
from imgnet_mini.training.device import translate_torch_errors
from imgnet_mini.training.evaluation import Metrics, Validation
from imgnet_mini.training.full_size import check_full_size
from imgnet_mini.training.hours import TimePlan, plan_hours
from imgnet_mini.training.model import weights_sha256
from imgnet_mini.training.peak_lr import find_max_lr, note_other_images
from imgnet_mini.training.run import TrainingRun
from imgnet_mini.training.setup import Setup, build_setup, build_trainer, describe_environment
from imgnet_mini.training.step_undo import repeat_with_more_memory
from imgnet_mini.utils.atomic_file import translate_write_errors
from imgnet_mini.utils.console import print_lines
from imgnet_mini.utils.shell import tensorboard_command
from imgnet_mini.utils.signals import StopRequest, StopRequestedError


def run(
    config: RunConfig, *, overwrite: bool, distributed: DistributedContext = SINGLE_PROCESS
) -> None:
    """Start a run.

    Raises:
        ConfigError: a run of this name exists and `overwrite` is off; see also `build_setup`.
        InUseError: another process is at it.
    """
    began, paths = time.perf_counter(), config.run.paths()
    check_tracker(config.run.track)

    def plan() -> float:
        _check_no_run(config, paths, overwrite=overwrite)
        return find_max_lr(config, paths)

    max_lr = distributed.broadcast_from_rank0(plan)
    setup = build_setup(config, distributed=distributed)
    time_plan: TimePlan | None = None
    if config.schedule.hours is not None:
        with translate_torch_errors(config.data.batch_size):
            elapsed = time.perf_counter() - began
            config, time_plan = plan_hours(config, setup, max_lr=max_lr, elapsed=elapsed)
    resolved = config.resolve(max_lr, steps=config.schedule.epochs * len(setup.train_loader))
    resolved = resolved.override({"data": {"loader": setup.images.loader}})
    if distributed.is_main_process:
        note_other_images(config, setup, paths)
    check_full_size(resolved, setup)
    trainer = build_trainer(resolved, setup)
    if (
        not distributed.is_main_process
    ):  # what layers draw at random is each rank's own; weights are not
        torch.manual_seed(hash_seed(resolved.runtime.seed, distributed.rank))
    with writing(paths, distributed):
        logger: RunLogger | None = None
        if distributed.is_main_process:
            _check_no_run(config, paths, overwrite=overwrite)  # by one that was quicker
            _remove_run(paths)
            _announce(resolved, paths, setup, _describe_auto(config, resolved))
            tracker = build_tracker(resolved.run.track, paths)
            logger = RunLogger(paths, [], step=0, tracker=tracker)
        store = CheckpointStore(paths, keep=resolved.checkpoint.keep)
        run = TrainingRun(resolved, paths, setup, trainer, logger, store, time_plan)
        train(run, new_plan=True)


def writing(paths: RunPaths, distributed: DistributedContext) -> AbstractContextManager[None]:
    """Lock the run on the main process, which alone writes to it.

    Raises:
        InUseError: another process holds it.
    """
    return lock_run(paths.name, paths.lock) if distributed.is_main_process else nullcontext()


def _check_no_run(config: RunConfig, paths: RunPaths, *, overwrite: bool) -> None:
    states = [paths.checkpoint, paths.best, *paths.earlier_checkpoints(), paths.train_log]
    existing = [path for path in states if path.exists()]
    if not existing or overwrite or (paths.has_checkpoint() and not has_steps(paths)):
        return
    if not paths.has_checkpoint():
        raise ConfigError(
            f"a run named {config.run.name} has left {existing[0]}, and no checkpoint to go on "
            "from: replace what is left with train --overwrite, or choose another --name"
        )
    raise ConfigError(
        f"a run named {config.run.name} exists ({existing[0]}). Start another one under a new "
        "--name, replace it with train --overwrite, or continue it with train --resume or\n"
        f"  imgnet-mini resume{run_flags(config.run)}"
    )


def train(run: TrainingRun, *, new_plan: bool) -> None:
    """Run the remaining epochs, with a checkpoint after each and within long ones.

    new_plan: whether nothing is saved yet of the schedule, or of accepted changes of the images.

    Raises:
        StoppedError: a signal ended the run, or came at its end; its state is saved.
        DivergedError: a loss or a weight is not finite; the newest checkpoint is from before.
    """
    state, data, distributed = run.trainer.state, run.config.data, run.setup.distributed
    val_images = build_eval_loader(
        data, run.setup.images, device=run.setup.device, distributed=distributed
    )
    with (
        StopRequest(
            distributed=distributed.world_size > 1
        ) as stop,  # outermost: workers end under it too
        run.add_resume_hint(),
        report_compilation() if run.config.runtime.compile else nullcontext(),
        translate_torch_errors(data.batch_size, less_memory=run.less_memory),
        closing(run.setup.train_loader) as train_loader,
        closing(val_images) as val_loader,
        closing(run),
        run.saving,
    ):
        run.begin(new_plan=new_plan)
        try:
            while state.epoch < run.config.schedule.epochs:
                began = time.perf_counter() if state.batch == 0 else None
                trained = run.trainer.train_epoch(
                    train_loader,
                    run.step_logger,
                    stop,
                    save=run.save_in_background,
                    save_seconds=60 * run.config.checkpoint.save_minutes,
                    check=run.saving.check,
                )
                run.saving.wait()  # worker processes start with validation: no file may be open
                validation = repeat_with_more_memory(
                    lambda: run.trainer.validate(val_loader, stop), train_loader, distributed
                )
                _replan(run, trained, validation, began)
                run.finish_epoch(trained, validation)
        except StopRequestedError as error:
            run.save()
            distributed.barrier()  # else torchrun, seeing one end, kills the one still writing
            raise StoppedError(
                f"stopped by {error} and saved: step {state.step} (epoch {state.epoch}, batch "
                f"{state.batch} of {len(train_loader)}). Continue with\n"
                f"  {run.resume_command}",
                error.signal_number,
            ) from error
    averaged = " of the averaged weights" if run.config.optimizer.ema_decay else ""
    print_lines(
        f"Done: best top-1 {state.best_top1:.2f}%{averaged} after epoch {state.best_epoch:03d}, "
        f"in {run.paths.best}",
        f"Final weights sha256 {weights_sha256(run.setup.model)}",
        f"Next: imgnet-mini report{run_flags(run.config.run)}",
    )
    _stop_at_the_end(run, stop)


def _replan(
    run: TrainingRun, trained: Metrics, validation: Validation, began: float | None
) -> None:
    """Correct the number of epochs of a run with `--hours`, once.

    began: when this process began the epoch; None if an earlier one did.
    """
    plan, done = run.time_plan, run.trainer.state.epoch + 1
    if plan is None or plan.replan_after(run.config) != done:
        return
    timed = [trained, *(metrics for metrics, _ in validation.values())]
    seconds = math.fsum(metrics.images / metrics.imgs_per_sec for metrics in timed)
    if began is not None:  # with what comes between
        seconds = time.perf_counter() - began
    steps = len(run.setup.train_loader)
    config, line = run.setup.distributed.broadcast_from_rank0(
        lambda: plan.replan(run.config, done=done, steps=steps, seconds=seconds)
    )
    plan.replanned = True
    if config.schedule.epochs != run.config.schedule.epochs:
        run.change_epochs(config)
    print_lines(line)


def _stop_at_the_end(run: TrainingRun, stop: StopRequest) -> None:
    """Stop before the report if a signal arrived since the last step."""
    received = run.setup.distributed.broadcast_from_rank0(lambda: stop.received)
    if received is not None:
        raise StoppedError(
            f"stopped by {signal.Signals(received).name} after the last epoch: everything is "
            f"saved. Reports are made by\n  imgnet-mini report{run_flags(run.config.run)}",
            received,
        )


def _remove_run(paths: RunPaths) -> None:
    """Remove the files of the run of this name, if it exists, and no others."""
    written = [*paths.checkpoint_files(), paths.train_log, paths.markdown_log, paths.environment]
    written += [paths.images]
    written += [*paths.report_files, *paths.event_dir.glob("events.out.tfevents.*")]
    with translate_write_errors(paths.checkpoint_dir):
        for path in written:
            path.unlink(missing_ok=True)
        paths.clean()


def _describe_auto(config: RunConfig, resolved: ResolvedConfig) -> str:
    """Return the decays that were `auto`, such as `, weight decay 0.0123 (auto)`."""
    decays = {"weight_decay": "weight decay", "ema_decay": "EMA decay"}
    return "".join(
        f", {words} {getattr(resolved.optimizer, name):.4g} (auto)"
        for name, words in decays.items()
        if getattr(config.optimizer, name) == "auto"
    )


def _announce(config: ResolvedConfig, paths: RunPaths, setup: Setup, decays: str) -> None:
    environment = describe_environment(setup)
    steps, batch = len(setup.train_loader), _describe_batch(config, setup.distributed)
    print_lines(
        *setup.images.notes,
        f"{config.model.arch}: {environment['parameters'] / 1e6:.1f} M parameters, "
        f"{environment['classes']} classes, on {environment['device']} in {setup.precision.name}",
        f"{len(setup.images.train)} training and {len(setup.images.val)} validation images from "
        f"{config.run.data_root} ({environment['loader']})",
        *describe_class_weights(config.optimizer.class_weights, setup.class_weights),
        f"{config.schedule.epochs} epochs of {steps} steps of {batch}{_describe_growth(config)}, "
        f"learning rate up to {config.schedule.max_lr:.3g}{decays}",
        f"Writing {paths.checkpoint_dir}, {paths.log_dir}, {paths.event_dir}",
        f"Watch with: {tensorboard_command(str(paths.event_dir.parent))}",
    )


def _describe_batch(config: RunConfig, distributed: DistributedContext) -> str:
    """Return the batch size and its division, such as `64 images (2 ranks x 32)`."""
    data = config.data
    images = f"{data.batch_size} images"
    if distributed.world_size == data.grad_accum_steps == 1:
        return images
    blocks = [f"{distributed.world_size} ranks"] if distributed.world_size > 1 else []
    blocks += [f"{data.grad_accum_steps} parts"] if data.grad_accum_steps > 1 else []
    micro_batch = data.batch_size // (distributed.world_size * data.grad_accum_steps)
    return f"{images} ({' x '.join(blocks)} x {micro_batch})"


def _describe_growth(config: RunConfig) -> str:
    """Return a note on progressive resizing, such as `, images of 48 to 64 px, ...`."""
    data, epochs = config.data, config.schedule.epochs
    if data.progressive is None:
        return ""
    sizes = build_progressive_resize(data, epochs)
    share = pixel_fraction(data, epochs)
    return f", images of {sizes.size_at(0)} to {sizes.last} px, {share:.2f} of the pixels"
