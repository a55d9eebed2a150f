"""Compare speed and memory with an older build: medians and spread of interleaved runs.

    python benchmarks/against.py --against PATH_OR_VERSION [--repeats 5] [--only help start ...]

PATH is a source tree of imgnet-mini; a VERSION is a tag or commit of this repository. Both builds
run in this Python, one after the other, in turns. Times are processor time (user and system) of a
command and its children, which other programs on the machine change least.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from figures import Row, add_output_options, describe_run, show
from PIL import Image

ROOT: Final = Path(__file__).resolve().parents[1]
BARE_HELP: Final = "import typer, pydantic, rich"
BARE_START: Final = "import torch, torchvision"


@dataclass(frozen=True)
class Usage:
    """Processor time in seconds and peak memory in GB of a process."""

    seconds: float
    memory: float


Measure = Callable[[Path, Path], Usage]
"""Measures a build (its source tree), with an empty folder to write to."""


def run_python(tree: Path, *words: str, folder: Path) -> Usage:
    """Run Python with a build of imgnet-mini to its end."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    log = folder / "output.txt"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, cwd=folder, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(words)} ended with {status}:\n{log.read_text('utf-8')[-2000:]}")
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def write_images(folder: Path, *, classes: int, train: int, val: int) -> None:
    """Write noise of 40 x 40 pixels."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(classes * count):
            path = folder / split / f"class_{number % classes:03d}" / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path)


def command(*words: str) -> Measure:
    return lambda tree, folder: run_python(tree, "-m", "imgnet_mini", *words, folder=folder)


def bare(code: str) -> Measure:
    return lambda tree, folder: run_python(tree, "-c", code, folder=folder)


def find_lr(tree: Path, folder: Path) -> Usage:
    """Run find-lr for 20 epochs on 120 images."""
    write_images(folder / "data", classes=10, train=12, val=2)
    data = ("--data-root", "data", "--img-size", "32", "--batch-size", "16", "--workers", "0")
    network = ("--arch", "shufflenet_v2_x0_5", "--epochs", "20")
    return command("find-lr", *data, *network)(tree, folder)


def start(tree: Path, folder: Path) -> Usage:
    """Train one step on 1,000 images."""
    write_images(folder / "data", classes=100, train=10, val=1)
    data = ("--data-root", "data", "--img-size", "32", "--batch-size", "1000", "--workers", "0")
    network = ("--arch", "shufflenet_v2_x0_5", "--epochs", "3", "--pct-start", "0.5")
    return command("train", *data, *network)(tree, folder)


def report(tree: Path, folder: Path) -> Usage:
    """Report on 1,000 classes x 4 images, by the build's own script, whose first report counts."""
    kept = folder / "run"
    run_python(tree, str(tree / "benchmarks" / "report.py"), "--keep", str(kept), folder=folder)
    shutil.rmtree(kept / "reports" / "report" / "thumbnails", ignore_errors=True)
    return command("report", "--name", "report", "--output-dir", str(kept))(tree, folder)


def demo(tree: Path, folder: Path) -> Usage:
    usage = command("demo", "--dir", "demo", "--device", "cpu")(tree, folder)
    result = json.loads((folder / "demo/reports/demo/metrics.json").read_text("utf-8"))
    print(f"demo of {tree}: top-1 {result['top1']:.2f}", file=sys.stderr)
    return usage


MEASURES: Final[dict[str, tuple[str, Measure]]] = {
    "help": ("imgnet-mini --help", command("--help")),
    "bare-help": (BARE_HELP, bare(BARE_HELP)),
    "start": ("train, 3 steps of 1,000 images", start),
    "bare-start": (BARE_START, bare(BARE_START)),
    "find-lr": ("find-lr, 120 images, 20 epochs", find_lr),
    "report": ("report, 1,000 classes x 4 images", report),
    "demo": ("demo", demo),
}


def check_out(version: str, folder: Path) -> Path:
    """Return a source tree: that of a path, or of a commit of this repository."""
    if Path(version).is_dir():
        return Path(version).resolve()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", version, "src", "benchmarks"],
        check=True,
        stdout=subprocess.PIPE,
    )
    tree = folder / "older"
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(tree, filter="data")
    return tree


def measure(name: str, trees: Sequence[Path], repeats: int) -> list[list[Usage]]:
    """Run a measure for each tree in turns; the first turn, which compiles, does not count."""
    _, function = MEASURES[name]
    usages: list[list[Usage]] = [[] for _ in trees]
    for turn in range(repeats + (name != "demo")):
        for tree, found in zip(trees, usages, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                usage = function(tree, Path(folder))
            if turn or name == "demo":
                found.append(usage)
    return usages


def to_rows(name: str, now: Sequence[Usage], before: Sequence[Usage]) -> list[Row]:
    rows: list[Row] = []
    for unit in ("seconds", "memory"):
        new, old = ([getattr(usage, unit) for usage in usages] for usages in (now, before))
        ratios = [after / earlier for after, earlier in zip(new, old, strict=True)]
        rows.append(
            {
                "measure": f"{MEASURES[name][0]}, {'CPU s' if unit == 'seconds' else 'GB'}",
                "before": _spread(old),
                "now": _spread(new),
                "ratio": _spread(ratios),
            }
        )
    return rows


def _spread(values: Sequence[float]) -> str:
    """Return the median, and the lowest and highest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", required=True, metavar="PATH_OR_VERSION")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    add_output_options(parser)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = (ROOT, check_out(options.against, folder))
        rows: list[Row] = []
        for name in options.only:
            rows += to_rows(name, *measure(name, trees, options.repeats))
            print(*rows[-2].values(), sep="  ", file=sys.stderr, flush=True)
    note = f"Medians of {options.repeats} interleaved runs, with the lowest and the highest."
    show(options, rows, about=describe_run("torchvision"), note=note)


if __name__ == "__main__":
    main()
