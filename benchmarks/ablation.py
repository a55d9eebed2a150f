"""Ablation of the recipe `mini`: accuracy with each ingredient added to `reference`.

    python benchmarks/ablation.py --data-root data/tiny-imagenet-mini --work-dir out/ablation
    python benchmarks/ablation.py --show --page docs/recipes.md

Each row adds one ingredient to the rows above it. It is trained by `imgnet-mini train` with the
compute of `--epochs` epochs at the full image size, and measured by `imgnet-mini evaluate` with the
weights of the last epoch: no epoch is selected. Ingredients left out of the recipe are added to all
of it, one at a time, and measured with `--tta`. Settings were chosen on seed 100, which is not
among the seeds here.

Each run is a row of a CSV file and is not repeated; an interrupted one continues. `--show` puts a
table and a plot of the file into a page.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any, Final

import torch
from ablation_table import Result, show
from figures import add_result, read_results
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.sampler import build_progressive_resize

HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """An ingredient: the options it adds to those of the rows above it.

    progressive: `--progressive`; smaller images allow more epochs with the same compute.
    eval_share: size of evaluation images, relative to that of training images.
    center_crop: evaluate with one center crop again, whatever the rows above do.
    """

    name: str
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    progressive: str | None = None
    eval_share: float = 1.0
    center_crop: bool = False


STEPS: Final = (
    Row("reference", ("--recipe", "reference")),
    Row("peak learning rate 0.1", ("--max-lr", "0.1")),
    Row("blocks that start as the identity", ("--zero-init-residual",)),
    Row("Nesterov momentum", ("--nesterov",)),
    Row("weight decay 0.0005, off norms and biases", ("--weight-decay", "5e-4", "--no-norm-decay")),
    Row("crops of 30 % and more", ("--crop-scale-min", "0.3")),
    Row("batches of 32", ("--batch-size", "32")),
    Row("small images first, more epochs", progressive="0.5:1"),
    Row("mean over the image and its mirror image", evaluate=("--tta",)),
    Row("mean over ten crops", evaluate=("--ten-crop",)),
    Row("weight decay auto", ("--weight-decay", "auto"), center_crop=True),
    Row("weight decay auto, mean over ten crops", evaluate=("--ten-crop",)),
)
"""From the recipe `reference` to the recipe `mini`."""

BEFORE_AUTO: Final = STEPS[:9]
"""What the ingredients that were left out were added to: `mini` of 0.2.0 with `--tta`."""

LEFT_OUT: Final = (
    Row("mini + mixup 0.2", ("--mixup", "0.2")),
    Row("mini + cutmix 1", ("--cutmix", "1")),
    Row("mini + TrivialAugment", ("--trivial-augment",)),
    Row("mini + random erasing 0.25", ("--random-erasing", "0.25")),
    Row(
        "mini + mean of the weights (EMA 0.998)", ("--ema-decay", "0.998"), ("--checkpoint", "best")
    ),
    Row("mini + gradient clipping at 1", ("--clip-grad", "1")),
    Row("mini + evaluation at 5/4 of the size", eval_share=1.25),
)
"""Ingredients that `mini` lacks, each added to `BEFORE_AUTO`."""

ROWS: Final = tuple(row.name for row in (*STEPS, *LEFT_OUT))


class Plan:
    """Options of training and evaluation of a row.

    run: name of the training, shared by rows that differ only in the evaluation.
    """

    def __init__(self, row: str, *, arch: str, img_size: int, budget: int) -> None:
        parts = parts_of(row)
        progressive = next((part.progressive for part in parts if part.progressive), None)
        data = DataConfig(img_size=img_size, progressive=progressive)
        self.epochs = epochs_for(budget, arch, data)
        self.arithmetic = arithmetic(self.epochs, arch, data)
        self.train = [word for part in parts for word in part.train]
        self.train += ["--progressive", progressive] if progressive else []
        self.train += ["--epochs", f"{self.epochs}"]
        last = max((place for place, part in enumerate(parts) if part.center_crop), default=0)
        self.evaluate = [word for part in parts[last:] for word in part.evaluate]
        eval_size = round(max(part.eval_share for part in parts) * img_size)
        self.evaluate += ["--eval-size", f"{eval_size}"] if eval_size > img_size else []
        trained = [part.name for part in parts if part.train or part.progressive][-1]
        self.run = re.sub(r"[^a-z0-9]+", "-", trained.lower())[:40].strip("-")


class Ablation:
    """The runs of a table; those without a result are made."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._lock = Lock()
        self._done = {
            (done.row, done.seed, done.arch, done.img_size, done.budget)
            for done in read_results(options.results, Result)
        }

    def make_all(self, rows: Sequence[str], seeds: Sequence[int], *, jobs: int) -> None:
        """Make the rows; those that share a training run sequentially."""
        groups: dict[tuple[int, str], list[str]] = {}
        for seed, row in product(seeds, rows):
            groups.setdefault((seed, plan_of(row, self._options).run), []).append(row)
        with ThreadPoolExecutor(jobs) as pool:
            for work in [pool.submit(self._make, seed, of) for (seed, _), of in groups.items()]:
                work.result()

    def _make(self, seed: int, rows: Sequence[str]) -> None:
        options = self._options
        for row in rows:
            if (row, seed, options.arch, options.img_size, options.epochs) not in self._done:
                result = measure(row, seed, options)
                with self._lock:
                    add_result(options.results, result)
                print(f"{row}, seed {seed}: {result.top1:.2f} %", flush=True)


def plan_of(row: str, options: argparse.Namespace) -> Plan:
    """Return the plan of a row with the network and image size of the options."""
    return Plan(row, arch=options.arch, img_size=options.img_size, budget=options.epochs)


def measure(row: str, seed: int, options: argparse.Namespace) -> Result:
    """Train a row, unless it is trained already, and evaluate it."""
    plan = plan_of(row, options)
    name = f"{plan.run}-{options.arch}-{options.img_size}-{plan.epochs}-{seed}"
    place = ["--name", name, "--output-dir", f"{options.work_dir}"]
    place += ["--data-root", f"{options.data_root}"]
    log = options.work_dir / f"{name}.log"
    network = ["--arch", options.arch, "--img-size", f"{options.img_size}", "--seed", f"{seed}"]
    imgnet_mini("train", "--resume", *place, *network, *plan.train, *options.more, log=log)
    weights = [] if "--checkpoint" in plan.evaluate else ["--checkpoint", "last"]
    imgnet_mini("evaluate", *place, *weights, *plan.evaluate, log=log)
    metrics, training = measured(options.work_dir, name)
    return Result(
        row=row,
        seed=seed,
        arch=options.arch,
        img_size=options.img_size,
        budget=options.epochs,
        epochs=plan.epochs,
        arithmetic=round(plan.arithmetic, 3),
        top1=metrics["top1"],
        top5=metrics["top5"],
        train_loss=round(float(training["loss"]), 4),
        torch=version("torch"),
        options=" ".join([*plan.train, "/", *weights, *plan.evaluate]),
    )


def measured(work_dir: Path, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the metrics of a run's evaluation, and the line of its last training epoch."""
    metrics = json.loads((work_dir / "reports" / name / "metrics.json").read_text("utf-8"))
    with (work_dir / "out" / name / "train_log.csv").open(newline="") as file:
        training = [line for line in csv.DictReader(file) if line["phase"] == "train"]
    return metrics, training[-1]


def parts_of(row: str) -> list[Row]:
    """Return the ingredients of a row: those above it, and its own.

    Raises:
        SystemExit: the row is unknown.
    """
    names = [step.name for step in STEPS]
    if row in names:
        return list(STEPS[: names.index(row) + 1])
    for other in LEFT_OUT:
        if other.name == row:
            return [*BEFORE_AUTO, other]
    raise SystemExit(f"unknown row {row!r}; choose from: {', '.join(ROWS)}")


def epochs_for(budget: int, arch: str, data: DataConfig) -> int:
    """Return the largest number of epochs with the compute of `budget` full-size epochs."""
    epochs = budget
    while arithmetic(epochs + 1, arch, data) <= budget:
        epochs += 1
    return epochs


def arithmetic(epochs: int, arch: str, data: DataConfig) -> float:
    """Return the compute of a number of epochs, in full-size epochs."""
    sizes = build_progressive_resize(data, epochs)
    taken = sum(operations(arch, sizes.size_at(epoch)) for epoch in range(epochs))
    return taken / operations(arch, sizes.last)


@cache
def operations(arch: str, side: int) -> int:
    """Return the FLOPs of the network for one image of `side` x `side` pixels.

    They are not proportional to pixels: layers round up a side that their stride does not divide.
    """
    with torch.device("meta"):
        network, image = get_model(arch, num_classes=100).eval(), torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())


def imgnet_mini(
    *words: str, log: Path, program: Sequence[str | Path] = ("-m", "imgnet_mini")
) -> None:
    """Run a command on one thread, because several run in parallel."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        subprocess.run(
            [sys.executable, *program, *words],
            check=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "ablation.csv")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--rows", nargs="+", default=ROWS, metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--show", action="store_true", help="make nothing but table and picture")
    parser.add_argument("--page", type=Path, help="where they go; else the table is printed")
    parser.add_argument("more", nargs="*", help="after --: more options of train")
    options = parser.parse_args()
    if not options.show:
        if options.data_root is None or options.work_dir is None:
            parser.error("training needs --data-root and --work-dir")
        Ablation(options).make_all(options.rows, options.seeds, jobs=options.jobs)
    show(read_results(options.results, Result), ROWS, options.page)


if __name__ == "__main__":
    main()
