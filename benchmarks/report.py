"""Measure time, memory and page size of the report of a run of ImageNet-Mini's size.

    python benchmarks/report.py [--classes 1000] [--per-class 4] [--arch resnet50] [--keep FOLDER]

Writes the files of a finished run: JPEG files of 300 x 300 pixels, the log of 20 epochs, a range
test, checkpoints, metrics.json and predictions.csv. Then `imgnet-mini report` runs in a separate
process; its seconds, its peak memory and the size of the page are printed. --keep FOLDER keeps the
run and its report.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files
from multiprocessing import Process
from pathlib import Path

import numpy as np
from PIL import Image

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.runs.records import EpochRecord, to_csv, to_markdown
from imgnet_mini.runs.results import EvaluationResult, RunEnvironment

NAME = "report"
EPOCHS = 20
SIDE = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=4)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # In a process that ends: the peak memory of a child starts at that of its parent.
        making = Process(
            target=make_run, args=(folder, options.classes, options.per_class, options.arch)
        )
        making.start()
        making.join()
        if making.exitcode:
            sys.exit(making.exitcode)
        seconds, peak = measure("report", "--name", NAME, "--output-dir", str(folder))
        images = options.classes * options.per_class
        print(f"{options.classes:,} classes, {images:,} images, {options.arch}")
        print(f"{seconds:.1f} s, {peak / 1e9:.2f} GB of memory at most, on {os.cpu_count()} CPUs")
        print(f"{RunPaths(folder, NAME).page.stat().st_size / 1e6:.2f} MB: index.html")


def measure(*words: str) -> tuple[float, int]:
    """Return the seconds that a command takes, and its peak memory in bytes."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "imgnet_mini", *words])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make_run(folder: Path, size: int, per_class: int, arch: str) -> None:
    paths = RunPaths(folder, NAME)
    ids = files("imgnet_mini.data").joinpath("imagenet_wnids.txt").read_text("utf-8").split()
    classes = tuple(ids[:size]) if size <= len(ids) else tuple(f"class_{n}" for n in range(size))
    data_root = folder / "data"
    predictions = _predict(classes, per_class)
    _write_images(predictions.images, data_root / "val")
    predictions.save(paths.predictions)
    run = {"name": NAME, "data_root": data_root}
    schedule = {"epochs": EPOCHS}
    config = RunConfig().override({"run": run, "model": {"arch": arch}, "schedule": schedule})
    _write_logs(paths, config, len(predictions.images))
    _write_finder(paths.finder_dir)
    sha256 = _write_checkpoints(paths, arch, size)
    right = predictions.top == predictions.targets[:, None]
    EvaluationResult(
        loss=3.2,
        top1=100 * float(right[:, 0].mean()),
        top5=100 * float(right.any(1).mean()),
        images=len(right),
        imgs_per_sec=300.0,
        checkpoint="best.pth",
        checkpoint_sha256=sha256,
        epoch=EPOCHS - 1,
        arch=arch,
        img_size=224,
        resize=256,
        precision="fp32",
        device="made",
        torch="made",
        classes=classes,
    ).write(paths.metrics)


def _predict(classes: Sequence[str], per_class: int) -> Predictions:
    """Return predictions of which 4 of 10 are correct; most others have the class in the top 5."""
    generator = np.random.default_rng(0)
    size, top = len(classes), min(5, len(classes))
    targets = np.repeat(np.arange(size), per_class)
    offsets = np.array([generator.permutation(min(size, 40))[:top] for _ in targets])
    place = generator.choice(top, len(targets), p=np.array([6, 2, 1, 1, 1])[:top] / 11)
    offsets = np.where(offsets == 0, min(size, 40) - 1, offsets)
    known = generator.random(len(targets)) < 0.7
    offsets[known, place[known]] = 0
    answers = (targets[:, None] + offsets) % size
    probabilities = np.sort(generator.dirichlet(np.full(top + 1, 0.7), len(targets)))[:, :0:-1]
    images = [
        f"{classes[target]}/ILSVRC2012_val_{number:08d}.JPEG"
        for number, target in enumerate(targets.tolist())
    ]
    return Predictions(images, tuple(classes), targets, answers, probabilities)


def _write_images(images: Sequence[str], val_dir: Path) -> None:
    generator = np.random.default_rng(0)
    for image in images:
        path = val_dir / image
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = Image.fromarray(generator.integers(0, 256, (9, 9, 3)).astype(np.uint8))
        cells.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)


def _write_logs(paths: RunPaths, config: RunConfig, images: int) -> None:
    records = []
    for epoch in range(EPOCHS):
        done = (epoch + 1) / EPOCHS
        lr = 0.025 * (1 - done)
        records += [
            EpochRecord(epoch, "train", 6.9 - 4 * done, 40 * done, 80 * done, lr, 310.0),
            EpochRecord(epoch, "val", 6.9 - 3.5 * done, 38 * done, 70 * done, lr, 900.0),
        ]
    paths.log_dir.mkdir(parents=True)
    paths.config.write_text(config.to_toml(), "utf-8")
    paths.train_log.write_text(to_csv(records), "utf-8")
    paths.markdown_log.write_text(to_markdown(records), "utf-8")
    RunEnvironment(train_images=34745, val_images=images, device="made", classes=1000).write(
        paths.environment
    )


def _write_finder(folder: Path) -> None:
    folder.mkdir(parents=True)
    rates = np.geomspace(1e-7, 1, 100)
    losses = 6.9 - 1.5 / (1 + (0.01 / rates) ** 2) + 40 * rates**2
    rows = [f"{rate},{loss},{loss}\n" for rate, loss in zip(rates, losses, strict=True)]
    (folder / "lr_finder_made.csv").write_text("".join(["lr,loss,smoothed\n", *rows]))
    curve = {"lr": 0.0046, "curve": "lr_finder_made.csv"}
    found = {"name": NAME, "time": "2025-01-01T00:00:00+00:00", **curve}
    (folder / "lr_finder_made.json").write_text(json.dumps(found))


def _write_checkpoints(paths: RunPaths, arch: str, size: int) -> str:
    """Write the weights, and once more with momentum buffers; return the digest of the first."""
    import torch  # noqa: PLC0415 - keeps the measuring process small
    import torchvision  # noqa: PLC0415

    weights = torchvision.models.get_model(arch, num_classes=size).state_dict()
    momentum = [weight.clone() for weight in weights.values()]
    paths.checkpoint_dir.mkdir(parents=True)
    torch.save({"model": weights}, paths.best)
    torch.save({"model": weights, "momentum": momentum}, paths.checkpoint)
    return hashlib.sha256(paths.best.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
