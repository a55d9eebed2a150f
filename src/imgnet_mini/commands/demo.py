"""demo: the whole workflow on the handwritten digits of scikit-learn."""

import shlex
import time
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from imgnet_mini.commands import evaluate, find_lr, prepare, readme, report, train
from imgnet_mini.config.run_config import RunConfig, Tables, config_flags
from imgnet_mini.errors import ConfigError, WriteError
from imgnet_mini.training.device import choose_device
from imgnet_mini.training.model import build_model
from imgnet_mini.training.precision import choose_precision
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import print_lines
from imgnet_mini.utils.shell import tensorboard_command

VAL_EVERY: Final = 5
"""Every fifth image is for validation."""

AFFORDABLE_SECONDS: Final = 50.0
"""Limit for range test and training, of the 100 seconds that the demo takes on two slow cores."""

SETTINGS: Final[Tables] = {
    # Digits are small, fill their image, and change their meaning when flipped.
    "data": {"batch_size": 64, "img_size": 32, "workers": 0, "crop_scale_min": 0.5, "flip": False},
    "schedule": {"epochs": 6},
    # A tenth of so short a training would be 13 steps, too few for any answer.
    "finder": {"budget": 0.25, "trials": 0},
}


def run(directory: Path, *, device: str) -> None:
    """Write images, then prepare, find-lr, train, evaluate, report and readme.

    Raises:
        ConfigError: the folder is not empty.
        WriteError: the folder cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} exists and is not empty; name another one with --dir")
    began = time.perf_counter()
    config_path = directory / "demo.toml"
    try:
        images = _write_digits(directory / "data")
    except OSError as error:
        raise WriteError(f"cannot write {error.filename or directory}: {error.strerror}") from error
    config = RunConfig().override(
        {
            **SETTINGS,
            "run": {"name": "demo", "data_root": directory / "data", "output_dir": directory},
            "runtime": {"device": device},
        }
    )
    arch = _affordable_arch(config, images)
    config = config.override({"model": {"arch": arch}})
    write_text(config_path, config.to_toml())
    print_lines(f"Wrote {images} images of handwritten digits below {directory / 'data'}")
    if arch != "resnet50":
        print_lines(f"A ResNet-50 would take some minutes on this machine: training a {arch}")

    _run_workflow(config, config_path)
    print_lines(
        "",
        f"The demo took {time.perf_counter() - began:.0f} s. Look at",
        f"  {directory / 'README.md'} (the results)",
        f"  {directory / 'reports' / 'demo' / 'index.html'} (the report page)",
        f"  {tensorboard_command(str(directory / 'runs'))}",
        "With ImageNet-Mini (Kaggle: ifigotin/imagenetmini-1000) in data/imagenet-mini:",
        "  imgnet-mini prepare --recipe mini",
        "  imgnet-mini train --recipe mini",
        "  imgnet-mini evaluate --ten-crop",
        "  imgnet-mini report",
        "  imgnet-mini readme",
    )


def _run_workflow(config: RunConfig, config_path: Path) -> None:
    """Run the commands as a user would type them, and print each."""
    run_flags = config_flags(config, "run", leave_out=("data_root",))
    config_flag = f" --config {shlex.quote(str(config_path))}"
    _step(f"prepare{config_flag}")
    prepare.run(config)
    _step(f"find-lr{config_flag}")
    find_lr.run(config)
    _step(f"train{config_flag} --max-lr auto")
    train.run(config.override({"schedule": {"max_lr": "auto"}}), overwrite=False)
    _step(f"evaluate{run_flags}")
    evaluate.run(config)
    _step(f"report{run_flags}")
    report.run(config)
    _step(f"readme{run_flags}")
    readme.run(config, [config.run.name], "results", None, check=False)


def _step(command: str) -> None:
    print_lines("", f"$ imgnet-mini {command}")


def _write_digits(data_root: Path) -> int:
    """Write the digits as PNG files, enlarged from 8 x 8 to 32 x 32 pixels; return their number."""
    digits = load_digits()
    for index, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "val" if index % VAL_EVERY == 0 else "train"
        folder = data_root / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray((values * (255 / 16)).astype("uint8"))
        small.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{index:04d}.png")
    return len(digits.target)


def _affordable_arch(config: RunConfig, images: int) -> str:
    """Return resnet50 if its training fits the time, by a few timed steps; else resnet18."""
    device = choose_device(config.runtime)
    if device.type != "cpu":
        return "resnet50"
    precision = choose_precision(config.runtime, device)
    size, batch_size = config.data.img_size, config.data.batch_size
    model = build_model(config.model, classes=10, img_size=size, seed=0, device=device)
    batch = torch.randn(batch_size, 3, size, size).to(memory_format=torch.channels_last)
    targets = torch.zeros(batch_size, dtype=torch.int64)
    seconds = []
    for _ in range(6):  # the first one is slow, and other programs may slow some
        began = time.perf_counter()
        with precision.autocast():
            loss = nn.functional.cross_entropy(model(batch), targets)
        torch.autograd.backward(loss)
        seconds.append(time.perf_counter() - began)
    steps = config.schedule.epochs * (images - images // VAL_EVERY) // batch_size
    steps = round(steps * (1 + config.finder.budget))
    return "resnet50" if steps * min(seconds) < AFFORDABLE_SECONDS else "resnet18"
