"""Files of runs, written without training or evaluation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.runs.records import EpochRecord, to_csv, to_markdown
from imgnet_mini.runs.results import EvaluationResult, RunEnvironment

TOP = 5


def log_run(
    output_dir: Path,
    name: str = "a",
    *,
    epochs: int = 4,
    best: float = 40.0,
    settings: dict[str, dict[str, object]] | None = None,
    ema: bool = False,
) -> RunPaths:
    """Write the files of a training. Top-1 rises to `best` in the last epoch.

    ema: with EMA weights, whose top-1 is 10 points higher, but 1 % in the last epoch.
    """
    paths = RunPaths(output_dir, name)
    paths.log_dir.mkdir(parents=True)
    records = []
    for epoch in range(epochs):
        top1 = best * (epoch + 1) / epochs
        numbers = {"epoch": epoch, "lr": 0.1 / (1 + epoch), "imgs_per_sec": 100.0}
        top5 = min(100.0, 2 * top1)
        loss = 4 - epoch / epochs
        records += [
            EpochRecord(phase="train", loss=loss, top1=top1 / 2, top5=top1, **numbers),
            EpochRecord(phase="val", loss=loss + 0.5, top1=top1, top5=top5, **numbers),
        ]
        if ema:
            top1 = 1.0 if epoch + 1 == epochs else top1 + 10
            averaged = EpochRecord(phase="ema", loss=loss, top1=top1, top5=top5, **numbers)
            records.append(averaged)
    planned = {"run": {"name": name, "data_root": "data"}, "schedule": {"epochs": epochs}}
    config = RunConfig().override(planned).override(settings or {})
    paths.config.write_text(config.to_toml(), "utf-8")
    paths.train_log.write_text(to_csv(records), "utf-8")
    paths.markdown_log.write_text(to_markdown(records), "utf-8")
    RunEnvironment(
        device="CPU (x86_64, 2 threads)",
        precision="bf16",
        torch="2.15.0",
        train_images=640,
        val_images=200,
        classes=3,
        command=("imgnet-mini", "train"),
    ).write(paths.environment)
    return paths


def finish_run(
    output_dir: Path,
    data_root: Path,
    classes: Sequence[str],
    *,
    per_class: int = 4,
    settings: dict[str, dict[str, object]] | None = None,
) -> Predictions:
    """Write the files of the run `a` and its evaluation; a third of it is correct."""
    network = {"model": {"arch": "shufflenet_v2_x0_5"}, "run": {"data_root": str(data_root)}}
    paths = log_run(output_dir, settings={**network, **(settings or {})})
    predictions = predict(classes, per_class)
    write_images(predictions, data_root / "val")
    predictions.save(paths.predictions)
    paths.checkpoint_dir.mkdir(parents=True)
    paths.best.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    evaluation_result(predictions, checkpoint_sha256=digest).write(paths.metrics)
    return predictions


def evaluation_result(
    predictions: Predictions, *, loss: float = 2.5, checkpoint_sha256: str = "0" * 64
) -> EvaluationResult:
    """Return what `evaluate` writes besides the predictions."""
    return EvaluationResult(
        loss=loss,
        top1=100 * float((predictions.top[:, 0] == predictions.targets).mean()),
        top5=80.0,
        images=len(predictions.images),
        imgs_per_sec=300.0,
        checkpoint="best.pth",
        checkpoint_sha256=checkpoint_sha256,
        epoch=3,
        arch="shufflenet_v2_x0_5",
        img_size=224,
        resize=256,
        precision="fp32",
        device="CPU",
        torch="2.15.0",
        classes=predictions.classes,
    )


def predict(classes: Sequence[str], per_class: int) -> Predictions:
    """Return deterministic predictions; the last class is never a top-1 prediction."""
    generator = np.random.default_rng(0)
    size, top = len(classes), min(TOP, len(classes))
    targets = np.repeat(np.arange(size), per_class)
    likely = np.array([generator.permutation(size)[:top] for _ in targets])
    right = np.arange(len(targets)) % 3 == 0
    for row in np.flatnonzero(right):
        place = np.flatnonzero(likely[row] == targets[row])
        likely[row, place] = likely[row, 0]
        likely[row, 0] = targets[row]
    for row in np.flatnonzero(likely[:, 0] == size - 1):
        likely[row] = np.roll(likely[row], -1)
    probabilities = np.sort(generator.dirichlet(np.ones(top), len(targets)))[:, ::-1] * 0.999
    images = [
        f"{classes[target]}/{number:05d}.jpg" for number, target in enumerate(targets.tolist())
    ]
    return Predictions(images, tuple(classes), targets, likely, probabilities)


def write_images(predictions: Predictions, val_dir: Path) -> None:
    for number, image in enumerate(predictions.images):
        path = val_dir / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20), (number * 37 % 256, number * 11 % 256, 120)).save(path)
