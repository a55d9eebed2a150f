"""The Python API: train, evaluate and use models from a program.

Keyword arguments are settings by their names, as in the TOML file without the section:
`train(recipe="mini", epochs=3, max_lr=0.1)`. Errors that a user can fix are subclasses of
`ImgnetMiniError`. Progress is printed to standard output.
"""

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from imgnet_mini.commands import evaluate as evaluate_command
from imgnet_mini.commands import resume as resume_command
from imgnet_mini.commands import train as train_command
from imgnet_mini.config.run_config import RunConfig, Tables, fields_of, former_names
from imgnet_mini.config.training_settings import check_one_length
from imgnet_mini.data.transforms import TestTimeAugmentation
from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.distributed.process_group import init_distributed
from imgnet_mini.errors import ConfigError, DataError, ImgnetMiniError, RankError
from imgnet_mini.inference.model import (
    ImageInput,
    InferenceModel,
    Prediction,
    load_inference_model,
)
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import best_record, read_csv, selection_records
from imgnet_mini.runs.results import EvaluationResult
from imgnet_mini.training.device import choose_device
from imgnet_mini.utils.console import silence

__all__ = [
    "EvaluationResult",
    "ImgnetMiniError",
    "InferenceModel",
    "Prediction",
    "RunResult",
    "evaluate",
    "load_model",
    "predict",
    "train",
]

_PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    best_top1: validation top-1 of the best epoch, in percent.
    best_epoch: counted from 0.
    best_checkpoint: weights of the best epoch.
    last_checkpoint: state after the last epoch, to resume from.
    train_log: CSV file with one row per epoch and phase.
    config: TOML file of the settings.
    """

    name: str
    best_top1: float
    best_epoch: int
    best_checkpoint: Path
    last_checkpoint: Path
    train_log: Path
    config: Path


def train(
    *,
    recipe: str | None = None,
    config: _PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> RunResult:
    """Train a network from scratch, as `imgnet-mini train` does.

    Works in any thread; only in the main one do signals save a checkpoint first.

    recipe: name of a recipe; `config` and `settings` take precedence over it.
    config: TOML file of settings; `settings` take precedence over it.
    resume: continue the run if it has a checkpoint, else start it.
    overwrite: replace an existing run of this name.
    settings: such as `data_root="data", name="a", epochs=3, max_lr=0.1`.

    Raises:
        ConfigError: a setting is unknown, out of bounds or contradicts another one, or a run of
            this name exists.
        DataError: the images cannot be used.
        DivergedError: the loss or a weight is not finite.
        StoppedError: a signal arrived; the run is saved.
        ImgnetMiniError: another error that a user can fix; see its message.
    """
    run_config = _build_config(settings, recipe, config)
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: leave one of them out")
    with _join_ranks(run_config) as distributed:
        if resume and distributed.broadcast_from_rank0(run_config.run.paths().has_checkpoint):
            resume_command.run(run_config, distributed=distributed)
        else:
            train_command.run(run_config, overwrite=overwrite, distributed=distributed)
        distributed.barrier()  # the main process has written all files
    return _read_result(run_config.run.paths())


def evaluate(
    *, checkpoint: _PathLike = "best", views: str = "center", **settings: Any
) -> EvaluationResult:
    """Measure a checkpoint on the validation images, as `imgnet-mini evaluate` does.

    Also writes metrics.json and predictions.csv of the run.

    checkpoint: `best`, `last`, or a checkpoint file, which is evaluated with its own settings and
        as one of the run that saved it.
    views: of each image: `center` crop, `hflip` (with its horizontal flip), or `ten-crop`.
    settings: such as `name="a"`; others default to those of the run.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the images.
        ConfigError: a setting is unknown or out of bounds.
        DataError: the images cannot be used.
        StoppedError: a signal arrived.
    """
    config = _build_config(settings)
    known = [view.value for view in TestTimeAugmentation]
    if views not in known:
        raise ConfigError(f"views={views!r}: choose one of {', '.join(known)}")
    with _join_ranks(config) as distributed:
        paths = evaluate_command.run(
            config,
            checkpoint=os.fspath(checkpoint),
            views=TestTimeAugmentation(views),
            distributed=distributed,
        )
        distributed.barrier()  # the main process has written metrics.json
    return EvaluationResult.read(paths.metrics)


def load_model(checkpoint: _PathLike = "best", **settings: Any) -> InferenceModel:
    """Load a trained model for inference; needs the checkpoint file only.

    checkpoint: a checkpoint file or a plain torchvision state dict; or `best` or `last` of the
        run `name`.
    settings: such as `device="cpu"`; `arch` and `img_size` of a plain state dict.

    Raises:
        CheckpointError: the file is missing or damaged.
        ConfigError: a setting is unknown or out of bounds, or the network is not known.
    """
    config = _build_config(settings)
    return load_inference_model(config, os.fspath(checkpoint), choose_device(config.runtime))


def predict(
    model: InferenceModel | _PathLike,
    images: ImageInput | Sequence[ImageInput] | Tensor,
    *,
    top_k: int | None = None,
) -> list[Prediction]:
    """Return the most likely classes of each image, in order.

    model: from `load_model`, or a checkpoint file.
    images: one or more image files or Pillow images; or (N, 3, S, S) uint8, see
        `InferenceModel.predict`.
    top_k: number of classes; by default 5, or all if there are fewer.

    Raises:
        CheckpointError: see `load_model`.
        DataError: an image cannot be decoded.
        ConfigError: `top_k` exceeds the number of classes.
    """
    loaded = model if isinstance(model, InferenceModel) else load_model(model)
    is_many = isinstance(images, Tensor | Sequence) and not isinstance(images, str)
    return loaded.predict(images if is_many else [images], top_k=top_k)  # type: ignore[list-item,arg-type]


def _build_config(
    settings: dict[str, Any], recipe: str | None = None, file: _PathLike | None = None
) -> RunConfig:
    """Return the configuration of a recipe, a TOML file and settings without their sections."""
    sections = {
        name: section
        for section in RunConfig.model_fields
        for name in (*fields_of(section), *former_names(section))
    }
    tables: Tables = {}
    for name, value in settings.items():
        if name not in sections:
            nearest = difflib.get_close_matches(name, sections, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"{name}: unknown setting{hint}")
        tables.setdefault(sections[name], {})[name] = value
    check_one_length(tables.get("schedule", {}))
    base = RunConfig() if recipe is None else RunConfig.from_recipe(recipe)
    if file is not None:
        base = base.override_from(Path(file))
    return base.override(tables)


@contextmanager
def _join_ranks(config: RunConfig) -> Iterator[DistributedContext]:
    """Join the process group; raise an error where another rank reports one and this rank exits.

    Only the main process prints.
    """
    try:
        with (
            init_distributed(config.runtime) as distributed,
            nullcontext() if distributed.is_main_process else silence(),
        ):
            yield distributed
    except SystemExit as end:
        raise RankError("another rank reported an error", int(end.code or 1)) from end


def _read_result(paths: RunPaths) -> RunResult:
    best = best_record(selection_records(read_csv(paths.train_log)))
    if best is None:
        raise DataError(f"{paths.train_log} holds no validated epoch")
    return RunResult(
        name=paths.name,
        best_top1=best.top1,
        best_epoch=best.epoch,
        best_checkpoint=paths.best,
        last_checkpoint=paths.checkpoint,
        train_log=paths.train_log,
        config=paths.config,
    )
