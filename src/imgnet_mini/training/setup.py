"""Build the parts of a training run, from its device to its trainer, and describe them."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from imgnet_mini import __version__
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.loaders import Loader, build_train_loader
from imgnet_mini.data.run_images import RunImages
from imgnet_mini.data.splits import ImageSplits, find_images_of_run, open_splits
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.reporting.network import count_parameters
from imgnet_mini.training.class_weights import resolve_class_weights
from imgnet_mini.training.compilation import check_compile_mode, choose_compile_mode
from imgnet_mini.training.device import choose_device, describe_device, translate_torch_errors
from imgnet_mini.training.model import build_model, check_img_size, convert_sync_batchnorm
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import (
    Precision,
    choose_precision,
    emulates_bf16,
    use_float32_classifier,
)
from imgnet_mini.training.same_images import Listing, check_same_images
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.console import print_warning

_Found = tuple[ImageFolder, ImageFolder]

_WITHOUT_EFFECT = {
    *("workers", "loader", "pack_on_device", "skip_bad", "allow_missing_val_classes"),
    *("device", "compile", "compile_mode", "amp"),
}
"""Settings that hardly change a result; `precision` says more than `amp`."""


@dataclass(frozen=True)
class Setup:
    """The parts of a run before its optimizer and schedule."""

    device: torch.device
    precision: Precision
    images: ImageSplits
    train_loader: Loader
    model: nn.Module
    criterion: nn.CrossEntropyLoss
    distributed: DistributedContext
    class_weights: tuple[float, ...] | None = None


def build_setup(
    config: RunConfig,
    *,
    resumed: RunImages | None = None,
    growing: bool = True,
    previous_precision: str | None = None,
    class_weights: Sequence[float] | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Setup:
    """Check settings, device and images, and build the parts of a run.

    resumed: the images of a run to resume.
    growing: apply progressive resizing, as training does.
    previous_precision, class_weights: of a run that is resumed.

    Raises:
        ConfigError: a setting does not fit the machine, the network or the images.
        DataError: the folders or images cannot be used.
    """
    check_img_size(config.model, config.data)
    check_compile_mode(config.runtime, config.data, distributed.world_size)
    device = choose_device(config.runtime, distributed)
    precision = choose_precision(config.runtime, device, previous=previous_precision)
    if precision.name == "bf16" and emulates_bf16(device):
        print_warning(
            "Warning: --precision bf16: this processor has no bf16 instructions; emulating them "
            "may take ten times as long as float32. Leave --precision out"
        )
    images = open_splits_once(config, distributed, resumed=resumed)
    weights = distributed.broadcast_from_rank0(
        lambda: (
            tuple(class_weights)
            if class_weights
            else resolve_class_weights(config.optimizer.class_weights, images.train)
        )
    )
    train_loader = build_train_loader(
        config.data,
        images,
        seed=config.runtime.seed,
        device=device,
        epochs=config.schedule.epochs if growing else None,
        distributed=distributed,
    )
    with translate_torch_errors(config.data.batch_size, less_memory=_less_memory):
        model = build_model(
            config.model,
            classes=len(images.train.classes),
            img_size=config.data.img_size,
            seed=config.runtime.seed,
            device=device,
        )
        if config.runtime.sync_bn and distributed.world_size > 1:
            model = convert_sync_batchnorm(model, device)
        use_float32_classifier(model, device.type)
    weight = None if weights is None else torch.tensor(weights, device=device)
    criterion = build_loss(config.optimizer, weight)
    return Setup(device, precision, images, train_loader, model, criterion, distributed, weights)


def open_splits_once(
    config: RunConfig,
    distributed: DistributedContext,
    *,
    training: bool = True,
    resumed: RunImages | None = None,
    classes: Sequence[str] | None = None,
    held_out: NDArray[np.bytes_] | None = None,
) -> ImageSplits:
    """Find and check the images once per machine; its other ranks map the same listing.

    classes: of a network to evaluate, for a data set without train/.
    held_out: files that its run has held out for validation, if known.

    Raises:
        ConfigError, DataError: see `open_splits`.
        DataError: the images differ between machines.
    """
    run, data, opened = config.run, config.data, list[ImageSplits]()
    listing: Listing | None = None

    def find() -> tuple[_Found, str, Mapping[str, str], RunImages | None, str]:
        nonlocal listing
        found = find_images_of_run(run, data, training=training, classes=classes, held_out=held_out)
        images = open_splits(run, data, training=training, resumed=resumed, found=found)
        opened.append(images)
        if distributed.nodes > 1:
            listing = Listing(images, training)
        digest = "" if listing is None else listing.digest
        return found, images.loader, images.skipped, images.resumed, digest

    found, loader, skipped, resumed, digest = distributed.run_on_local_rank0(find)
    if not opened:
        data = config.override({"data": {"loader": loader}}).data
        images = open_splits(
            run,
            data,
            training=training,
            skipped=skipped,
            resumed=resumed,
            checked=True,
            found=found,
        )
        opened.append(images)
    if distributed.nodes > 1:
        check_same_images(listing, digest, run.data_root, distributed)
    return opened[0]


def build_trainer(
    config: ResolvedConfig, setup: Setup, *, total_steps: int | None = None
) -> Trainer:
    """Build the optimizer, the schedule and the trainer.

    total_steps: length of the schedule; None: all epochs.

    Raises:
        ConfigError: the run is too short for its schedule.
    """
    max_lr = config.schedule.max_lr
    steps = total_steps or config.schedule.epochs * len(setup.train_loader)
    with translate_torch_errors(config.data.batch_size, less_memory=_less_memory):
        optimizer = build_optimizer(config.optimizer, setup.model, lr=max_lr)
        scheduler = build_scheduler(config.schedule, optimizer, max_lr=max_lr, total_steps=steps)
        return Trainer(
            setup.model,
            setup.criterion,
            optimizer,
            scheduler,
            setup.precision,
            total_steps=steps,
            compile_mode=choose_compile_mode(config.runtime),
            grad_accum_steps=config.data.grad_accum_steps,
            clip_grad=config.optimizer.clip_grad,
            ema_decay=config.optimizer.ema_decay,
            distributed=setup.distributed,
            hint=f"try a lower --max-lr, such as {max_lr / 2:.2g}",
        )


def _less_memory() -> str:
    return ": close other programs that use the device, or try a smaller --arch"


def describe_environment(setup: Setup) -> dict[str, Any]:
    """Return device, versions, sizes of the run and the command line, as JSON values."""
    pack = setup.images.pack
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": describe_device(setup.device),
        "device_type": setup.device.type,
        "precision": setup.precision.name,
        "threads": torch.get_num_threads(),
        "world_size": setup.distributed.world_size,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "pillow": PIL.__version__,
        "imgnet_mini": __version__,
        "classes": len(setup.images.train.classes),
        "train_images": len(setup.images.train),
        "val_images": len(setup.images.val),
        "loader": "image files" if pack is None else f"pack of {pack.manifest.pack_size} px",
        "skipped": [f"{place}: {why}" for place, why in setup.images.left_out.items()],
        "parameters": count_parameters(setup.model),
        "command": ["imgnet-mini", *sys.argv[1:]],
    }


def hyper_parameters(config: RunConfig) -> dict[str, float | str]:
    """Return the settings that runs are compared by; TensorBoard would show a bool as a number."""
    settings: dict[str, float | str] = {}
    for section in ("data", "model", "optimizer", "schedule", "runtime"):
        for name, value in getattr(config, section).in_use().items():
            if name not in _WITHOUT_EFFECT and value is not None:
                settings[name] = str(value).lower() if isinstance(value, bool) else value
    return settings
