"""Measure a checkpoint on the validation images."""

from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imgnet_mini.checkpoint.load import LoadedWeights, read_weights
from imgnet_mini.checkpoint.schema import Weights
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.loaders import build_eval_loader
from imgnet_mini.data.run_images import read_image_list
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.transforms import TestTimeAugmentation
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import CheckpointError, ConfigError
from imgnet_mini.inference.model import checkpoint_path, load_network
from imgnet_mini.inference.settings import (
    check_saved_by,
    checkpoint_settings,
    saved_settings,
    wrong_arch_error,
)
from imgnet_mini.reporting.paired import VIEW_NAMES, compare_predictions
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.runs.results import CenterCrop, EvaluationResult
from imgnet_mini.training.device import choose_device, describe_device, translate_torch_errors
from imgnet_mini.training.evaluation import Metrics, evaluate, to_predictions
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.setup import open_splits_once
from imgnet_mini.utils.atomic_file import check_writable
from imgnet_mini.utils.console import print_lines, print_warning, show_table
from imgnet_mini.utils.signals import StopRequest


def run(
    overrides: RunConfig,
    *,
    checkpoint: str = "best",
    views: TestTimeAugmentation = TestTimeAugmentation.CENTER_CROP,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> RunPaths:
    """Evaluate in float32, write metrics.json and predictions.csv, and print a table.

    Returns the paths of the run that the checkpoint belongs to, where both files are.

    checkpoint: `best`, `last`, or the path of a checkpoint or of a plain torchvision state dict.
    views: test-time augmentation; the center crop alone is measured too, to show the gain.

    Raises:
        ConfigError: ten crops are requested from a pack.
        CheckpointError: the checkpoint is missing, damaged, or does not fit the network or classes.
        DataError: the images cannot be used.
    """
    config, path, (weights, sha256), held_out = distributed.broadcast_from_rank0(
        lambda: _prepare(overrides, checkpoint, views)
    )
    paths = config.run.paths()
    device = choose_device(config.runtime, distributed)
    images = open_splits_once(
        config, distributed, training=False, classes=weights.classes, held_out=held_out
    )
    print_lines(*images.notes)
    _note_differences(config, images, views, held_out)
    with translate_torch_errors(config.data.batch_size):
        model = _load_network(config, weights, path, images.train, device)
    measure = partial(_measure, config, model, images, device, distributed=distributed)
    metrics, predictions = measure(views=views)
    center = None
    if views is not TestTimeAugmentation.CENTER_CROP:
        center = _compare_with_center(predictions, *measure(views=TestTimeAugmentation.CENTER_CROP))
    if not distributed.is_main_process:
        return paths
    predictions.save(paths.predictions)
    result = EvaluationResult.model_validate(
        asdict(metrics)
        | _describe_setting(config, views, device)
        | {
            "checkpoint": path.name,
            "checkpoint_sha256": sha256,
            "epoch": weights.finished_epoch,
            "center": center,
            "classes": images.val.classes,
        }
    )
    result.write(paths.metrics)
    _show(path, result)
    print_lines(f"Wrote {paths.metrics} and {paths.predictions}")
    return paths


def _prepare(
    overrides: RunConfig, checkpoint: str, views: TestTimeAugmentation
) -> tuple[RunConfig, Path, LoadedWeights, NDArray[np.bytes_] | None]:
    """Return the settings, path and content of the checkpoint, and the files it held out."""
    if checkpoint in ("best", "last"):
        saved_settings(overrides)  # wrong ones are reported before a missing checkpoint
    path = checkpoint_path(checkpoint, overrides)
    loaded = read_weights(path)
    config = checkpoint_settings(overrides, checkpoint, path, loaded.weights.config)
    if loaded.weights.arch and "arch" not in overrides.explicit().get("model", {}):
        config = config.override({"model": {"arch": loaded.weights.arch}})
    loader = overrides.explicit().get("data", {}).get("loader")
    if views is TestTimeAugmentation.TEN_CROP:
        if loader == "pack":
            raise ConfigError(
                "--loader pack: a pack holds center crops only, and --ten-crop needs whole images; "
                "omit --loader to read the image files"
            )
        config = config.override({"data": {"loader": "folder"}})
    elif loader is None:
        # Packed and decoded validation images are bit-identical: use whichever exists.
        config = config.override({"data": {"loader": "auto"}})
    paths = config.run.paths()
    named = overrides.explicit().get("run", {}).get("name", config.run.name)
    if named != config.run.name:
        print_lines(f"Note: {path} belongs to the run {config.run.name}, not to {named}")
    if loaded.weights.config is not None:
        check_saved_by(paths, path, loaded.sha256)
    check_writable(paths.report_dir)
    paths.clean_reports()
    return config, path, loaded, _held_out_files(config, paths, loaded.weights)


def _held_out_files(
    config: RunConfig, paths: RunPaths, weights: Weights
) -> NDArray[np.bytes_] | None:
    """Return the training images that the run of a checkpoint held out; None if not known."""
    saved, hold_out = weights.config or {}, config.data.hold_out
    if not hold_out.val_split or weights.images is None or weights.classes is None:
        return None
    if not hold_out.model_dump().items() <= saved.get("data", {}).items():
        print_warning(
            f"Warning:{hold_out.flags}: the run held out other images, so it was trained on most "
            "of these: results are too good"
        )
        return None
    listed = read_image_list(paths.images, weights.classes, weights.images)
    return None if listed is None else listed[1].images.files


def _note_differences(
    config: RunConfig,
    images: ImageSplits,
    views: TestTimeAugmentation,
    held_out: NDArray[np.bytes_] | None,
) -> None:
    """Say where the images or views are not those of the training."""
    if held_out is not None and len(images.val) < len(held_out):
        gone = len(held_out) - len(images.val)
        print_lines(f"Note: {gone} of the {len(held_out)} images that the run held out are gone")
    if views is not TestTimeAugmentation.CENTER_CROP and not config.data.flip:
        print_lines(
            "Note: predictions include flipped images, but the run was "
            "trained without them (--no-flip)"
        )


def _describe_setting(
    config: RunConfig, views: TestTimeAugmentation, device: torch.device
) -> dict[str, Any]:
    """Return how the images are measured, for metrics.json."""
    data = config.data
    return {
        "arch": config.model.arch,
        "img_size": data.eval_size,
        "fit": data.fit,
        "resize": views.resize_size(data.eval_size, data.fit),
        "views": views.value,
        "precision": "fp32",
        "device": describe_device(device),
        "torch": str(torch.__version__),
    }


def _measure(
    config: RunConfig,
    model: nn.Module,
    images: ImageSplits,
    device: torch.device,
    *,
    views: TestTimeAugmentation,
    distributed: DistributedContext,
) -> tuple[Metrics, Predictions]:
    with (
        StopRequest(
            lambda name: f"evaluation stopped by {name}; nothing was written",
            distributed=distributed.world_size > 1,
        ) as stop,
        translate_torch_errors(config.data.batch_size),
        closing(
            build_eval_loader(
                config.data, images, device=device, tta=views, distributed=distributed
            )
        ) as loader,
    ):
        metrics, predictions = evaluate(
            model,
            loader,
            Precision(device.type, None),
            stop,
            label_smoothing=config.optimizer.label_smoothing,
            distributed=distributed,
        )
    return metrics, to_predictions(predictions, images.val)


def _compare_with_center(
    predictions: Predictions, center: Metrics, center_predictions: Predictions
) -> CenterCrop:
    """Return the results of the center crop, and the gain of `predictions` over it."""
    gain = compare_predictions(center_predictions, predictions)
    if gain is None:
        raise ValueError("two evaluations of the same images have other images")
    low, high = gain.interval
    return CenterCrop(
        loss=center.loss,
        top1=center.top1,
        balanced_top1=center.balanced_top1,
        top5=center.top5,
        gain=gain.points,
        gain_low=low,
        gain_high=high,
    )


def _show(path: Path, result: EvaluationResult) -> None:
    title = str(path) if result.epoch is None else f"{path.name} of epoch {result.epoch:03d}"
    header = ["", "images", "loss", "top-1 %", "balanced top-1 %", "top-5 %", "images/s"]
    whole = (VIEW_NAMES[result.views], result, f"{result.imgs_per_sec:.0f}")
    rows = [
        [
            *(name, f"{result.images}", f"{one.loss:.4f}"),
            *(f"{one.top1:.2f}", f"{one.balanced_top1:.2f}", f"{one.top5:.2f}", rate),
        ]
        for name, one, rate in (("center crop", result.center, ""), whole)
        if one is not None
    ]
    show_table(title, header, rows)
    if result.center is not None:
        low, high = result.center.gain_low, result.center.gain_high
        print_lines(
            f"Gain in top-1: {result.center.gain:+.2f} points, 95 % interval {low:+.2f} to "
            f"{high:+.2f}{' (may be noise)' if low <= 0 <= high else ''}"
        )


def _load_network(
    config: RunConfig,
    weights: Weights,
    path: Path,
    images: ImageFolder,
    device: torch.device,
) -> nn.Module:
    """Return the network with the weights of a checkpoint or of a plain state dict.

    Raises:
        CheckpointError: the architecture or the classes differ.
    """
    arch = weights.network or config.model.arch
    if arch != config.model.arch:
        raise wrong_arch_error(path, arch, config.model.arch)
    classes = weights.classes
    if classes is not None and classes != list(images.classes):
        raise CheckpointError(
            f"{path} was trained on {len(classes)} classes, and {images.root} has "
            f"{len(images.classes)}, or others: name its images with --data-root"
        )
    return load_network(config, weights, path, classes=len(images.classes), device=device)
