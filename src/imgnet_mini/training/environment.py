"""The machine and the versions of a run, for its files and its checkpoints."""

import platform
import sys
from datetime import datetime
from typing import Any

import PIL
import torch
import torchvision

from imgnet_mini import __version__
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.reporting.network import count_parameters
from imgnet_mini.training.device import describe_device
from imgnet_mini.training.setup import Setup


def describe_environment(setup: Setup) -> dict[str, Any]:
    """Return device, versions, sizes of the run and the command line, as JSON values."""
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
        "loader": _describe_loader(setup.images),
        "skipped": [f"{place}: {why}" for place, why in setup.images.skipped.items()],
        "parameters": count_parameters(setup.model),
        "command": ["imgnet-mini", *sys.argv[1:]],
    }


def _describe_loader(images: ImageSplits) -> str:
    """Return the source of the images, such as `pack of 256 px`."""
    pack = images.pack
    return "image files" if pack is None else f"pack of {pack.manifest.pack_size} px"
