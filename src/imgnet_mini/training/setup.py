"""Build the parts of a training run: device, images, loader, model and loss."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.folder import fingerprint
from imgnet_mini.data.loaders import Loader, build_train_loader
from imgnet_mini.data.splits import ImageSplits, open_splits
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import DataError
from imgnet_mini.training.device import choose_device
from imgnet_mini.training.model import build_model, check_img_size, convert_sync_batchnorm
from imgnet_mini.training.optim import build_loss
from imgnet_mini.training.precision import Precision, choose_precision
from imgnet_mini.training.torch_errors import translate_torch_errors


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


def build_setup(
    config: RunConfig,
    *,
    skipped: Mapping[str, str] | None = None,
    growing: bool = True,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Setup:
    """Check settings, device and images, and build the parts of a run.

    skipped: image files to leave out and the reasons, if known from before.
    growing: apply progressive resizing, as training does.

    Raises:
        ConfigError: a setting does not fit the machine, the network or the images.
        DataError: the folders or images cannot be used.
    """
    check_img_size(config.model, config.data)
    device = choose_device(config.runtime, distributed)
    precision = choose_precision(config.runtime, device)
    images = open_splits_once(config, distributed, skipped=skipped)
    train_loader = build_train_loader(
        config.data,
        images,
        seed=config.runtime.seed,
        device=device,
        epochs=config.schedule.epochs if growing else None,
        distributed=distributed,
    )
    with translate_torch_errors(config.data.batch_size):
        model = build_model(
            config.model,
            classes=len(images.train.classes),
            img_size=config.data.img_size,
            seed=config.runtime.seed,
            device=device,
        )
        if config.runtime.sync_bn and distributed.world_size > 1:
            model = convert_sync_batchnorm(model, device)
    criterion = build_loss(config.optimizer)
    return Setup(device, precision, images, train_loader, model, criterion, distributed)


def open_splits_once(
    config: RunConfig,
    distributed: DistributedContext,
    *,
    training: bool = True,
    skipped: Mapping[str, str] | None = None,
) -> ImageSplits:
    """Find and check the images once per machine; its other ranks reuse the result.

    Raises:
        ConfigError, DataError: see `open_splits`.
        DataError: the images differ between machines.
    """
    found: list[ImageSplits] = []

    def find() -> tuple[str, Mapping[str, str]]:
        found.append(open_splits(config.run, config.data, training=training, skipped=skipped))
        return found[0].loader, found[0].skipped

    loader, left_out = distributed.run_on_local_rank0(find)
    if not found:
        data = config.override({"data": {"loader": loader}}).data
        found.append(
            open_splits(config.run, data, training=training, skipped=left_out, checked=True)
        )
    (images,) = found
    if distributed.nodes > 1:
        names = distributed.all_gather(fingerprint(images.train, images.val, sizes=False))
        if len(set(names)) > 1:
            raise DataError(
                f"the images in {config.run.data_root} differ between machines: copy them "
                "again, or pass a folder that all machines share with --data-root"
            )
    return images
