"""Accuracy where training overfits, as on ImageNet-Mini: many epochs of few images.

    python benchmarks/overfitting.py --data-root data/tiny-imagenet-mini --work-dir out/overfitting
    python benchmarks/overfitting.py --show --page docs/recipes.md

Each row is trained by `imgnet-mini train` for the same number of epochs of the same images, with
ResNet-18 of half the channels at 32 px, and its last weights (the averaged ones, if there are any)
are measured by `imgnet-mini evaluate`: no epoch is selected. Settings were chosen on seed 100,
which has a table of its own. `other_classes.py` makes folders of classes on which nothing was
chosen, with more validation images.

Each run is a row of a CSV file and is not repeated; an interrupted one continues. `--show` puts a
table of the file into a page.
"""

import argparse
import math
import re
import shutil
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Final

import torch
from ablation import imgnet_mini, measured
from figures import add_result, read_results
from scipy.stats import t

from imgnet_mini.reporting.readme.blocks import replace_block
from imgnet_mini.utils.atomic_file import atomic_write

HERE: Final = Path(__file__).parent
BLOCK: Final = "overfitting"
VAL_IMAGES: Final = 2
"""Validation images per class during training; all of them are for the evaluation at the end."""

_MINI: Final = (
    *("--max-lr", "0.1", "--batch-size", "32", "--crop-scale-min", "0.3", "--zero-init-residual"),
    *("--nesterov", "--weight-decay", "auto", "--no-norm-decay"),
)
"""The recipe `mini`, without progressive resizing: 32 px is the smallest size."""

_LESS: Final = (*_MINI, "--weight-decay", "5e-4")
_MUON: Final = (*_MINI, "--optimizer", "muon", "--max-lr", "0.004", "--no-nesterov")

ROWS: Final[dict[str, tuple[str, ...]]] = {
    "reference": ("--recipe", "reference"),
    "mini": _MINI,
    "mini, weight decay 0.0005": _LESS,
    "mini + dropout 0.3": (*_MINI, "--dropout", "0.3"),
    "mini + mixup 0.2": (*_MINI, "--mixup", "0.2"),
    "mini + TrivialAugment": (*_MINI, "--trivial-augment"),
}
TRIED: Final[dict[str, tuple[str, ...]]] = {
    "mini, weight decay 0.0037": (*_MINI, "--weight-decay", "3.7e-3"),
    "mini, weight decay 0.005": (*_MINI, "--weight-decay", "5e-3"),
    "mini, weight decay 0.0005, mixup 0.2": (*_LESS, "--mixup", "0.2"),
    "mini, weight decay 0.0005, TrivialAugment": (*_LESS, "--trivial-augment"),
    "mini + CutMix": (*_MINI, "--cutmix", "1"),
    "mini + random erasing 0.25": (*_MINI, "--random-erasing", "0.25"),
    "mini, label smoothing 0": (*_MINI, "--label-smoothing", "0"),
    "mini + batches of 16": (*_MINI, "--batch-size", "16", "--max-lr", "0.07"),
    "mini + blur pooling": (*_MINI, "--blur-pool"),
    "mini + EMA auto": (*_MINI, "--ema-decay", "auto"),
    "mini with Muon": (*_MUON, "--weight-decay", "0.05"),
    "mini with Muon, batches of 64": (*_MUON, "--weight-decay", "0.1", "--batch-size", "64"),
    "mini with Muon + TrivialAugment": (*_MUON, "--weight-decay", "0.05", "--trivial-augment"),
}
"""Rows of which the tuning seed, `TUNING`, is all there is."""

ALL: Final = ROWS | TRIED
TUNING: Final = 100


@dataclass(frozen=True)
class Result:
    """One run. Top-1 and top-5 are in percent, and with the loss of one center crop.

    data: name of the image folder.
    train_top1: of the last epoch, with its augmentation.
    ten_crops: top-1 with ten crops; NaN if not measured.
    """

    data: str
    row: str
    seed: int
    classes: int
    epochs: int
    train_top1: float
    top1: float
    top5: float
    loss: float
    ten_crops: float
    torch: str
    options: str


def make(row: str, seed: int, options: argparse.Namespace) -> Result:
    """Train a row, unless it is trained already, and evaluate its last weights."""
    name = re.sub(r"[^a-z0-9]+", "-", row.lower())
    data: str = options.data_root.name
    name = f"{data}-{name}-{options.classes}-{options.epochs}-{seed}"
    work: Path = options.work_dir
    words = [*ALL[row], "--epochs", f"{options.epochs}", "--seed", f"{seed}"]
    network = ["--arch", "resnet18_half", "--img-size", "32", "--workers", "0"]
    place = ["--name", name, "--output-dir", f"{work}"]
    log = work / f"{name}.log"
    few, every = image_folders(options)
    run("train", "--resume", *place, *network, "--data-root", f"{few}", *words, log=log)
    weights = last_weights(work / "checkpoints" / name)
    whole = ["--data-root", f"{every}", "--checkpoint", f"{weights}"]
    run("evaluate", *place, *network, *whole, "--ten-crop", log=log)
    metrics, training = measured(work, name)
    return Result(
        data=data,
        row=row,
        seed=seed,
        classes=options.classes,
        epochs=options.epochs,
        train_top1=round(float(training["top1"]), 2),
        top1=metrics["center"]["top1"],
        top5=metrics["center"]["top5"],
        loss=round(metrics["center"]["loss"], 4),
        ten_crops=metrics["top1"],
        torch=version("torch"),
        options=" ".join(words),
    )


def image_folders(options: argparse.Namespace) -> tuple[Path, Path]:
    """Pack every n-th class; return the folder with few validation images, and that with all."""
    data = f"{options.data_root.name}-{options.classes}"
    folders = [options.work_dir / f"data-{data}-{which}" for which in ("few", "all")]
    for folder, most in zip(folders, (VAL_IMAGES, None), strict=True):
        if folder.exists():
            continue
        classes = sorted(path.name for path in (options.data_root / "train").iterdir())
        making = folder.with_name(f"{folder.name}.making")
        shutil.rmtree(making, ignore_errors=True)  # of a process that was stopped
        for name in classes[:: len(classes) // options.classes][: options.classes]:
            shutil.copytree(options.data_root / "train" / name, making / "train" / name)
            (making / "val" / name).mkdir(parents=True)
            for path in sorted((options.data_root / "val" / name).iterdir())[:most]:
                shutil.copy(path, making / "val" / name)
        size = ("--img-size", "32", "--pack-size", "64")
        run("prepare", "--data-root", f"{making}", *size, log=options.work_dir / "prepare.log")
        making.rename(folder)
    return folders[0], folders[1]


def last_weights(checkpoints: Path) -> Path:
    """Return a file of the last epoch's weights, averaged if the run averages them."""
    checkpoint = torch.load(checkpoints / "checkpoint.pth", map_location="cpu", weights_only=True)
    path = checkpoints / "last_weights.pth"
    torch.save(checkpoint.get("ema") or checkpoint["model"], path)
    return path


def run(*words: str, log: Path) -> None:
    """Run a command that knows the narrow network."""
    imgnet_mini(*words, log=log, program=(HERE / "narrow.py",))


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table: training and validation accuracy side by side, per setting."""
    settings = sorted({setting_of(result) for result in results}, reverse=True)
    headings = ["validation (and training) top-1; with ten crops, %"]
    headings += [
        f"`{data}`, {classes} classes, {epochs} epochs" for data, classes, epochs in settings
    ]
    lines = [headings, [":--", *["--:"] * len(settings)]]
    for row in ALL:
        found = [
            [one for one in results if one.row == row and setting_of(one) == setting]
            for setting in settings
        ]
        if any(found):
            lines.append([row, *map(cell, found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def setting_of(result: Result) -> tuple[str, int, int]:
    return result.data, result.classes, result.epochs


def cell(results: Sequence[Result]) -> str:
    """Return top-1, training top-1, and top-1 with ten crops if all results have it."""
    if not results:
        return ""
    training = statistics.mean(result.train_top1 for result in results)
    text = f"{summary([result.top1 for result in results])} ({training:.0f})"
    crops = [result.ten_crops for result in results]
    return text if math.isnan(sum(crops)) else f"{text}; {summary(crops)}"


def summary(values: Sequence[float]) -> str:
    """Return the mean over seeds with its 95 % interval; or the values of two or fewer."""
    if len(values) < 3:
        return ", ".join(f"{value:.1f}" for value in values)
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "overfitting.csv")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ALL), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--show", action="store_true", help="train nothing, but make the table")
    parser.add_argument("--page", type=Path, help="where it goes; else it is printed")
    options = parser.parse_args()
    if not options.show:
        if options.data_root is None or options.work_dir is None:
            parser.error("training needs --data-root and --work-dir")
        train_all(options)
    results = read_results(options.results, Result)
    text = table([one for one in results if one.seed != TUNING])
    text += f"\n\nSeed {TUNING}, on which the settings were chosen:\n\n"
    text += table([one for one in results if one.seed == TUNING])
    if options.page is None:
        print(text)
        return
    content = replace_block(options.page.read_bytes(), text, options.page, block=BLOCK)
    with atomic_write(options.page) as file:
        file.write(content)


def train_all(options: argparse.Namespace) -> None:
    """Make the runs that have no result yet."""
    results = read_results(options.results, Result)
    setting = (options.data_root.name, options.classes, options.epochs)
    done = {(one.row, one.seed) for one in results if setting_of(one) == setting}
    lock = Lock()

    def work(seed: int, row: str) -> None:
        result = make(row, seed, options)
        with lock:
            add_result(options.results, result)
        print(f"{row}, seed {seed}: {result.top1:.2f} %", flush=True)

    image_folders(options)
    missing = [
        (seed, row) for seed, row in product(options.seeds, options.rows) if (row, seed) not in done
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        for job in [pool.submit(work, seed, row) for seed, row in missing]:
            job.result()


if __name__ == "__main__":
    main()
