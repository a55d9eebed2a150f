"""What `train` and `find-lr` share: from a configuration to a network, a loss and batches."""

import hashlib
import json
import platform
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import PIL
import torch
import torchvision
from torch import nn

from imgnet_mini import __version__
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.settings import RunSection
from imgnet_mini.data.folder import ImageFolder, fingerprint
from imgnet_mini.data.folder_source import lost_worker
from imgnet_mini.data.loaders import Loader, build_train_loader
from imgnet_mini.data.open import ImageSplits, open_splits
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import ConfigError, DataError
from imgnet_mini.reporting.summary import count_parameters
from imgnet_mini.runs.paths import RunPaths, check_inside
from imgnet_mini.training.device import choose_device, describe_device
from imgnet_mini.training.model import build_model, check_img_size, convert_sync_batchnorm
from imgnet_mini.training.optim import build_loss
from imgnet_mini.training.precision import Precision, choose_precision
from imgnet_mini.utils.atomic_file import remove_temporary_files
from imgnet_mini.utils.progress import progress_bar

_LONGER_THAN_A_WRITE: Final = 3600
"""Seconds."""


@dataclass(frozen=True)
class Setup:
    """The parts of a run that are there before its first step."""

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
    """Check the settings, the machine and the images, then build.

    skipped: the image files that the run goes without, if that has been found out before.
    growing: whether images may be smaller in the first epochs, as in training.

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
    """Find and check the images, once on each machine: its other ranks take what was found there.

    Raises:
        ConfigError, DataError: see `open_splits`.
        DataError: the machines do not have the same images.
    """
    found: list[ImageSplits] = []

    def find() -> tuple[str, Mapping[str, str]]:
        found.append(
            open_splits(
                config.run, config.data, training=training, skipped=skipped, watch=progress_bar
            )
        )
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
                f"the images in {config.run.data_root} are not the same on all machines: copy "
                "them anew, or name a folder that all of them share with --data-root"
            )
    return images


def describe_environment(setup: Setup) -> dict[str, Any]:
    """The machine, the versions, the sizes of the run, and the command as it was typed."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": describe_device(setup.device),
        "device_type": setup.device.type,
        "precision": setup.precision.name,
        "threads": torch.get_num_threads(),
        "ranks": setup.distributed.world_size,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "pillow": PIL.__version__,
        "imgnet_mini": __version__,
        "classes": len(setup.images.train.classes),
        "train_images": len(setup.images.train),
        "val_images": len(setup.images.val),
        "loader": _describe_loader(setup.images),
        "skipped": [f"{place}: {why}" for place, why in setup.images.skipped.items()],
        "parameters": count_parameters(setup.model),
        "command": ["imgnet-mini", *sys.argv[1:]],
    }


def _describe_loader(images: ImageSplits) -> str:
    """Where the images come from, such as `pack of 256 px`."""
    pack = images.pack
    return "image files" if pack is None else f"pack of {pack.manifest.pack_size} px"


def names_fingerprint(images: ImageFolder) -> str:
    """What version 0.1.0 knew images by: classes and names."""
    names = json.dumps([images.classes, [images.relative(i) for i in range(len(images))]])
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


def run_paths(run: RunSection) -> RunPaths:
    """The places of the run that was named.

    Raises:
        ConfigError: one of them is a link that leads out of the output folder.
    """
    paths = RunPaths(run.output_dir, run.name)
    folders = (paths.checkpoint_dir, paths.log_dir, paths.event_dir, paths.report_dir)
    for folder in (*folders, paths.export_dir):
        check_inside(folder)
    return paths


def clean_run(paths: RunPaths) -> int:
    """Remove what killed processes have left half written of a run whose lock this one holds.

    Reports are written without the lock, so that only what is old there is left over.
    """
    return remove_temporary_files(*paths.training_dirs()) + clean_reports(paths)


def clean_reports(paths: RunPaths) -> int:
    """The same for the reports, which several processes may write."""
    return remove_temporary_files(paths.report_dir, older_than=_LONGER_THAN_A_WRITE)


def run_flags(run: RunSection) -> str:
    """The options that lead another command to this run, as text to paste."""
    return config_flags(RunConfig(run=run), "run", leave_out=("data_root", "pack_dir"))


def config_flags(config: RunConfig, *sections: str, leave_out: Collection[str] = ()) -> str:
    """The options that give another command these settings, as text to paste.

    A recipe that they start from is named, and then only what differs from it.
    """
    recipe = config.recipe
    words = [] if recipe is None else ["--recipe", recipe]
    base = RunConfig() if recipe is None else RunConfig.from_recipe(recipe)
    for section in sections:
        for name, value in getattr(config, section):
            if name in leave_out or value == getattr(getattr(base, section), name):
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
    return "".join(f" {shlex.quote(word)}" for word in words)


@contextmanager
def translate_torch_errors(batch_size: int) -> Iterator[None]:
    """Turn what torch says of memory, of missing kernels and of lost workers into advice.

    Raises:
        ConfigError: the device's memory is too small, or `deterministic` asks too much of it.
        WriteError: a worker process was killed.
    """
    advice = (
        f"out of memory at --batch-size {batch_size}: try --batch-size {max(1, batch_size // 2)}; "
        "or a larger --grad-accum-steps, such as 2, which keeps the batch and takes it in parts; "
        "or a smaller --img-size or --arch"
    )
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(advice) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise ConfigError(advice) from error
        if re.search("DataLoader worker .*(killed|exited)", str(error)):  # wherever that was heard
            raise lost_worker() from error
        if "deterministic implementation" in str(error):
            kernel = str(error).split()[0]
            raise ConfigError(
                f"--deterministic: {kernel} has no such kernel on this device; leave the flag "
                "out, or choose another --arch"
            ) from error
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"--batch-size {batch_size} is too small for this network at this --img-size: its "
            "batch norms need more than one value; use 2 or more"
        ) from error
