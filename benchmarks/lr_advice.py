"""Compare the peaks that find-lr suggests with a grid: complete trainings at each of them.

    python benchmarks/lr_advice.py --data-root data/tiny-imagenet-mini --work-dir out

For each recipe and batch size: a grid of peaks, a factor of 2 apart, extended while its best is at
an end; the suggestions of each method of find-lr over several seeds; a training at the geometric
mean of each method's suggestions; and for each seed one at the peak that find-lr recommended to it.
One row of the CSV is one result. Results that exist are not measured again, so a stopped benchmark
can be continued, and several can share the work.

The defaults are for one CPU. With a GPU: --arch resnet50 --img-size 64 --epochs 25 --seeds 0 1 2.
--subset 10 12 takes 12 training images of each of 10 classes, --grid-seeds 0 1 2 trains each peak
with three seeds, --methods recommended leaves the single methods out.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import narrow  # noqa: F401  # registers resnet18_half
from figures import Row, add_output_options, add_result, describe_run, read_results, show
from torch import Tensor, nn
from torchvision.models._api import register_model
from torchvision.models.resnet import BasicBlock

from imgnet_mini import cli
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import build_eval_loader
from imgnet_mini.errors import DivergedError
from imgnet_mini.lr_finder.results import SavedResult
from imgnet_mini.training.setup import build_setup, build_trainer
from imgnet_mini.utils.signals import StopRequest

RECIPES: Final = ("reference", "mini")

RECOMMENDED: Final = "recommended"
"""The method that stands for the advice of find-lr, whichever method it is from."""

FAR: Final = 10.0
"""Rates this many times below the lowest of the grid are not trained at."""


class SlimResNet(nn.Module):
    """Three residual blocks of 24, 48 and 96 channels: a ResNet that a CPU trains in a minute."""

    def __init__(self, num_classes: int, zero_init_residual: bool) -> None:
        super().__init__()
        blocks = []
        for before, width, stride in ((24, 24, 1), (24, 48, 2), (48, 96, 2)):
            norm, match = nn.BatchNorm2d(width), nn.Conv2d(before, width, 1, stride, bias=False)
            shortcut = nn.Sequential(match, norm) if stride > 1 else None
            blocks.append(BasicBlock(before, width, stride, shortcut))
        stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, num_classes))
        self.layers = nn.Sequential(stem, *blocks, *head)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock) and zero_init_residual:
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to (N, classes)."""
        logits: Tensor = self.layers(images)
        return logits


def slim_resnet(*, num_classes: int, zero_init_residual: bool = False, **_: None) -> SlimResNet:
    """Build the network; takes the arguments of torchvision's builders."""
    return SlimResNet(num_classes, zero_init_residual)


class Cell(NamedTuple):
    """One combination for which grid and suggestions are compared."""

    recipe: str
    batch_size: int


@dataclass(frozen=True)
class Result:
    """A row: the peak that a method suggested, or the final top-1 (percent) of a training.

    data: classes x training images of each.
    method: `train`, or a method of find-lr; of the latter `top1` is NaN.
    """

    data: str
    arch: str
    img_size: int
    epochs: int
    recipe: str
    batch_size: int
    seed: int
    method: str
    lr: float
    top1: float


class Bench:
    """Measures results and keeps them in a CSV file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.path: Path = options.results

    def results(self, cell: Cell) -> list[Result]:
        """Return the existing results for the network asked for."""
        rows = read_results(self.path, Result)
        wanted = asdict(self.result(cell, 0, "", 0.0))
        same = ("data", "arch", "img_size", "epochs", "recipe", "batch_size")
        return [row for row in rows if all(getattr(row, name) == wanted[name] for name in same)]

    def result(
        self, cell: Cell, seed: int, method: str, lr: float, top1: float = math.nan
    ) -> Result:
        options = self.options
        about = (options.data, options.arch, options.img_size, options.epochs)
        return Result(*about, *cell, seed, method, lr, top1)

    def add(self, *results: Result) -> None:
        for result in results:
            add_result(self.path, result)

    def train(self, cell: Cell, seed: int, lr: float) -> float:
        """Return `train_quietly`, unless the result exists; 0 if the training diverged."""
        for known in self.results(cell):
            if (known.method, known.seed) == ("train", seed) and math.isclose(
                known.lr, lr, rel_tol=0.01
            ):
                return known.top1
        config = self.config(cell, seed).override({"schedule": {"max_lr": lr}})
        try:
            top1 = train_quietly(config, lr)
        except DivergedError:
            top1 = 0.0
        self.add(self.result(cell, seed, "train", lr, top1))
        return top1

    def train_seeds(self, cell: Cell, lr: float) -> float:
        """Return the mean top-1 of the trainings with each of the grid's seeds."""
        return statistics.fmean(self.train(cell, seed, lr) for seed in self.options.grid_seeds)

    def find(self, cell: Cell, seed: int) -> None:
        """Run find-lr, unless its results exist."""
        if any(known.method != "train" and known.seed == seed for known in self.results(cell)):
            return
        name = f"{cell.recipe}-{cell.batch_size}-{seed}"
        epochs = ("--epochs", str(self.options.epochs))
        self.run("find-lr", *epochs, *self.options.find_lr.split(), name=name, cell=cell, seed=seed)
        folder = self.options.work_dir / "lr_finder_plots"
        saved = [SavedResult.read(path) for path in folder.glob("*.json")]
        newest = max((found for found in saved if found.name == name), key=lambda found: found.time)
        rates = newest.suggestions | {RECOMMENDED: newest.lr}
        self.add(*(self.result(cell, seed, method, lr or math.nan) for method, lr in rates.items()))

    def run(self, command: str, *words: str, name: str, cell: Cell, seed: int = 0) -> None:
        """Run a command of imgnet-mini."""
        options = self.options
        images = ["--data-root", str(options.data_root), "--img-size", str(options.img_size)]
        pack = ["--pack-dir", str(options.work_dir / f"pack-{options.data}")]
        arguments = [command, *images, *pack, *words]
        if command != "prepare":
            arguments += ["--name", name, "--output-dir", str(options.work_dir), "--workers", "0"]
            arguments += ["--batch-size", str(cell.batch_size), "--arch", options.arch]
            arguments += ["--seed", str(seed), "--recipe", cell.recipe]
        try:
            cli.main(arguments)
        except SystemExit as end:
            if end.code not in (0, None):
                raise

    def config(self, cell: Cell, seed: int) -> RunConfig:
        """Return the settings of a training, but for its peak."""
        options = self.options
        return RunConfig.from_recipe(cell.recipe).override(
            {
                "run": {
                    "data_root": options.data_root,
                    "pack_dir": options.work_dir / f"pack-{options.data}",
                },
                "data": {
                    "batch_size": cell.batch_size,
                    "img_size": options.img_size,
                    "workers": 0,
                },
                "model": {"arch": options.arch},
                "schedule": {"epochs": options.epochs},
                "runtime": {"seed": seed},
            }
        )


class NoLogger:
    """Drops the losses."""

    def log_steps(self, first_step: int, losses: Sequence[float], lrs: Sequence[float]) -> None:
        """Do nothing."""


def train_quietly(config: RunConfig, lr: float) -> float:
    """Return the top-1 after the last epoch, in percent, of a training without any files.

    It trains as the command does. With small data sets, whose epochs take a second, validation and
    checkpoints after each epoch would take most of the time.
    """
    setup = build_setup(config)
    resolved = config.resolve(lr, steps=config.schedule.epochs * len(setup.train_loader))
    trainer = build_trainer(resolved, setup)
    loader = build_eval_loader(config.data, setup.images, device=setup.device)
    with StopRequest() as stop:
        for _ in range(config.schedule.epochs):
            trainer.train_epoch(setup.train_loader, NoLogger(), stop)
            trainer.state.finish_epoch(0.0)
        metrics, _ = trainer.validate(loader, stop)["val"]
        stop.check()
    return metrics.top1


def search_grid(bench: Bench, cell: Cell) -> None:
    """Train at rates a factor of 2 apart, until the best has a worse neighbour on both sides."""
    top1: dict[int, float] = {}
    missing = set(bench.options.grid)
    while missing:
        for power in sorted(missing):
            top1[power] = bench.train_seeds(cell, grid_rate(cell, power))
        best = max(top1, key=lambda power: top1[power])
        missing = {best - 1, best + 1} - top1.keys()


def grid_rate(cell: Cell, power: int) -> float:
    """Return the peak this many doublings above linear scaling."""
    return 0.1 * cell.batch_size / 256 * 2.0**power


def train_as_suggested(bench: Bench, cell: Cell) -> list[Row]:
    """Return a row for the best of the grid, and one for each method."""
    results = bench.results(cell)
    rates = [grid_rate(cell, power) for power in range(-8, 16)]
    trained = {row.lr for row in results if row.method == "train" and _is_near(row.lr, rates)}
    grid = {lr: bench.train_seeds(cell, lr) for lr in sorted(trained)}
    best = max(grid, key=lambda lr: grid[lr])
    about = {"recipe": cell.recipe, "batch": str(cell.batch_size)}
    rows: list[Row] = [
        about | {"method": "best of the grid", "rate": f"{best:.3g}", "top-1": grid[best]}
    ]
    methods = bench.options.methods or [row.method for row in results if row.method != "train"]
    for method in dict.fromkeys(methods):
        by_seed = {row.seed: row.lr for row in results if row.method == method and row.lr > 0}
        if not by_seed:
            rows.append(about | {"method": method, "rate": "none"})
            continue
        found = list(by_seed.values())
        lr = statistics.geometric_mean(found)
        top1: float | None
        if method == RECOMMENDED:
            top1 = statistics.fmean(bench.train(cell, seed, by_seed[seed]) for seed in by_seed)
        else:
            is_far = lr * FAR < min(grid)
            top1 = None if is_far else bench.train_seeds(cell, lr)
        rows.append(
            about
            | {"method": method, "rate": f"{lr:.3g}", "top-1": top1}
            | {"spread": f"x {max(found) / min(found):.2f}", "seeds": str(len(found))}
        )
    columns = ("recipe", "batch", "method", "rate", "top-1", "spread", "seeds")
    return [{column: row.get(column) for column in columns} for row in rows]


def _is_near(lr: float, rates: Sequence[float]) -> bool:
    return any(math.isclose(lr, rate, rel_tol=0.01) for rate in rates)


def link_subset(data_root: Path, subset: Sequence[int], work_dir: Path) -> Path:
    """Return a folder of links to some classes, with all their validation images.

    subset: the number of classes, and of training images of each.
    """
    classes, images = subset
    folder = work_dir / f"data-{classes}x{images}"
    names = sorted(path.name for path in (data_root / "train").iterdir())
    for name in names[:: len(names) // classes][:classes]:
        for split, limit in (("train", images), ("val", None)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for file in sorted((data_root / split / name).iterdir())[:limit]:
                link = folder / split / name / file.name
                if not link.is_symlink():
                    link.symlink_to(file.resolve())
    return folder


def count_images(data_root: Path) -> str:
    """Return classes and mean number of training images of each, such as `100x35`."""
    counts = [len(list(folder.iterdir())) for folder in (data_root / "train").iterdir()]
    return f"{len(counts)}x{statistics.fmean(counts):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    results = Path(__file__).parent / "results" / "lr_advice.csv"
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--subset", type=int, nargs=2, metavar=("CLASSES", "IMAGES"))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--arch", default="slim_resnet", help="that, or one of torchvision's")
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of find-lr")
    parser.add_argument("--grid-seeds", type=int, nargs="+", default=[0], help="of each training")
    parser.add_argument("--grid", type=int, nargs="+", default=[1, 2, 3], help="doublings")
    parser.add_argument("--methods", nargs="+", help="those of the table; default: all")
    parser.add_argument("--find-lr", default="", help="more options for find-lr, as one word")
    parser.add_argument("--only", choices=["grid", "find-lr"], help="half of the work, no table")
    add_output_options(parser)
    options = parser.parse_args()
    if options.subset:
        options.data_root = link_subset(options.data_root, options.subset, options.work_dir)
    options.data = count_images(options.data_root)

    slim_resnet.__module__ = BasicBlock.__module__  # where imgnet-mini looks for networks
    register_model()(slim_resnet)
    bench = Bench(options)
    cells = [Cell(recipe, size) for size in options.batch_sizes for recipe in options.recipes]
    bench.run("prepare", name="", cell=cells[0])
    for cell in cells:
        if options.only != "grid":
            for seed in options.seeds:
                bench.find(cell, seed)
        if options.only != "find-lr":
            search_grid(bench, cell)
    if options.only:
        return
    rows = [row for cell in cells for row in train_as_suggested(bench, cell)]
    note = f"No training at rates more than {FAR:g} times under the grid: '-'."
    show(options, rows, about=describe_run("torchvision"), note=note)


if __name__ == "__main__":
    main()
