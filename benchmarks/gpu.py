"""Speed and memory of training on a GPU, and the time of two recipes, in 8 minutes at most.

    python benchmarks/gpu.py --json gpu.json [--data-root photographs] [--recipe-root small_images]
    python benchmarks/gpu.py --show gpu.json

For each batch size and precision, with ResNet-50 at 224 px:

    compute alone        the trainer on one batch that never changes; eager, and compiled in
                         the modes of --compile-modes
    bare loop            autocast, channels last, fused SGD: nothing but the step
    files                training from image files
    pack copied ahead    training from a pack in host memory
    resident pack        training from a pack in GPU memory
    plain script         a common script on the same files: PIL, 8 workers, `.item()` each step
    timm                 the step of timm's train.py, if timm is installed

Then, with --recipe-root, a run of each recipe. What does not fit into the time is left out and
named. Without a data root, JPEG files of ImageNet's usual size are generated.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as imgnet-mini's commands have it

import torch
import torchvision
from figures import write_photographs
from gpu_steps import (
    NotMeasuredError,
    PlainScript,
    bare_step,
    fixed_batch,
    images_per_second,
    timm_step,
)
from gpu_table import COMPUTE, to_markdown

from imgnet_mini.commands import prepare
from imgnet_mini.config.run_config import RunConfig, Tables
from imgnet_mini.data.splits import open_splits
from imgnet_mini.runs.logger import NullLogger
from imgnet_mini.runs.records import read_csv
from imgnet_mini.training.device import choose_device, describe_device
from imgnet_mini.training.model import build_model
from imgnet_mini.training.throughput import TrainingBenchmark
from imgnet_mini.utils.signals import StopRequest

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": None}
SOURCES: dict[str, Tables] = {
    COMPUTE: {"data": {"loader": "folder"}},
    "files": {"data": {"loader": "folder"}},
    "pack copied ahead": {"data": {"loader": "pack", "pack_on_device": "off"}},
    "resident pack": {"data": {"loader": "pack", "pack_on_device": "on"}},
}
COPIES = 8
"""Hard links to each generated image, so that few have to be made."""


@dataclass(frozen=True)
class Case:
    """What is measured."""

    case: str
    precision: str
    batch_size: int
    compile_mode: str | None = None


@dataclass(frozen=True)
class Result:
    """images_per_second: None if not measured, for the reason in `note`."""

    images_per_second: float | None
    peak_bytes: int | None = None
    note: str = ""


def all_cases(options: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    """Yield the cases, those that take longest last."""
    settings = [(p, b) for b in reversed(options.batch_sizes) for p in options.precisions]
    sources = [name for name in SOURCES if name != "resident pack" or device.type == "cuda"]
    for setting in settings:
        for name in (*sources, "bare loop", "timm"):
            yield Case(name, *setting)
    for batch_size in reversed(options.batch_sizes):
        yield Case("plain script", options.precisions[0], batch_size)
    for mode in options.compile_modes:
        for setting in settings:
            yield Case(COMPUTE, *setting, compile_mode=mode)


class Measurement:
    """Measures cases on one set of images, until the time is over."""

    def __init__(self, options: argparse.Namespace, config: RunConfig, stop: StopRequest) -> None:
        self._options, self._config, self._stop = options, config, stop
        self._device = choose_device(config.runtime)
        self._deadline = time.monotonic() + 60 * options.minutes

    def seconds_left(self) -> float:
        return float(self._deadline - time.monotonic())

    def measure(self, case: Case) -> Result:
        """Measure a case; an error that the machine causes is a note."""
        if self.seconds_left() < 0:
            return Result(None, note="no time left")
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            rate = self._rate(case)
        except torch.OutOfMemoryError:
            return Result(None, note="out of memory")
        except NotMeasuredError as error:
            return Result(None, note=str(error))
        return Result(rate, torch.cuda.max_memory_allocated() if cuda else None)

    def _rate(self, case: Case) -> float:
        if case.case in SOURCES:
            return self._training(case)
        options, dtype = self._options, DTYPES[case.precision]
        arch, size, count = options.arch, options.img_size, case.batch_size
        if case.case == "plain script":
            step: Callable[[], None] = PlainScript(
                self._config.run.data_root / "train",
                torchvision.models.get_model(arch, num_classes=2),
                size=size,
                batch_size=count,
                workers=options.plain_workers,
                device=self._device,
                dtype=dtype,
            )
        else:
            batch = fixed_batch(size, count, self._device)
            if case.case == "timm":
                step = timm_step(arch, *batch, dtype)
            else:
                step = bare_step(torchvision.models.get_model(arch, num_classes=2), *batch, dtype)
        return images_per_second(step, count, seconds=options.seconds)

    def _training(self, case: Case) -> float:
        precision: dict[str, object] = {"amp": False}
        if case.precision != "fp32":
            precision = {"precision": case.precision}
        if case.compile_mode is not None:
            precision |= {"compile": True, "compile_mode": case.compile_mode}
        config = self._config.override(
            {"data": {"batch_size": case.batch_size}, "runtime": precision}
        )
        config = config.override(SOURCES[case.case])
        images = open_splits(config.run, config.data)
        model = build_model(
            config.model,
            classes=len(images.train.classes),
            img_size=config.data.img_size,
            seed=0,
            device=self._device,
        )
        with closing(
            TrainingBenchmark(config, images, model, NullLogger(), self._stop)
        ) as benchmark:
            batches = benchmark.fixed_batch() if case.case == COMPUTE else None
            return benchmark.training(self._options.seconds, batches)


def run_recipe(
    recipe: str, options: argparse.Namespace, folder: Path, left: float
) -> dict[str, Any]:
    """Train with a recipe; return its wall time and its best top-1, or None for what is missing."""
    words = ["train", "--recipe", recipe, "--name", recipe, "--output-dir", str(folder)]
    words += ["--data-root", str(options.recipe_root), *shlex.split(options.recipe_options)]
    began = time.monotonic()
    found: dict[str, Any] = {"recipe": recipe, "seconds": None, "top1": None}
    if left <= 0:
        return found
    try:
        subprocess.run([sys.executable, "-m", "imgnet_mini", *words], check=True, timeout=left)
    except subprocess.TimeoutExpired:
        return found
    records = read_csv(folder / "out" / recipe / "train_log.csv")
    top1 = max(record.top1 for record in records if record.phase == "val")
    return found | {"seconds": time.monotonic() - began, "top1": top1}


def make_config(options: argparse.Namespace, folder: Path) -> RunConfig:
    """Return the settings; generate the images if there are none, and pack them."""
    root = options.data_root or folder / "data"
    if options.data_root is None:
        write_photographs(root / "train", max(2, options.images // COPIES))
        write_photographs(root / "val", 2)
        for path in sorted(root.glob("train/*/*.JPEG")):
            for copy in range(1, COPIES):
                path.with_name(f"{path.stem}_{copy}.JPEG").hardlink_to(path)
    data = {"img_size": options.img_size}
    if options.workers is not None:
        data["workers"] = options.workers
    config = RunConfig().override(
        {
            "run": {"data_root": root, "pack_dir": folder / "pack"},
            "data": data,
            "model": {"arch": options.arch},
            "runtime": {"device": options.device},
        }
    )
    prepare.run(config)
    return config


def describe(device: torch.device) -> dict[str, Any]:
    """Return device, driver, versions, date and command."""
    packages = ("imgnet-mini", "torch", "torchvision", "timm")
    versions: dict[str, str | None] = {name: _version(name) for name in packages}
    versions |= {"CUDA": torch.version.cuda, "Python": sys.version.split()[0]}
    return {
        "device": describe_device(device),
        "driver": _driver() if device.type == "cuda" else None,
        "cpus": os.cpu_count(),
        "versions": versions,
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    return lines[0].strip()


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stop = stack.enter_context(StopRequest())
        config = make_config(options, folder)
        measurement = Measurement(options, config, stop)
        device = choose_device(config.runtime)
        speed, recipes = [], []
        cases = list(all_cases(options, device))
        eager = [case for case in cases if case.compile_mode is None]
        for case in eager:
            speed.append(asdict(case) | asdict(measurement.measure(case)))
            print(speed[-1], file=sys.stderr)
        if options.recipe_root is not None:
            run = partial(run_recipe, options=options, folder=folder)
            recipes = [run(name, left=measurement.seconds_left()) for name in options.recipes]
        for case in cases[len(eager) :]:
            speed.append(asdict(case) | asdict(measurement.measure(case)))
            print(speed[-1], file=sys.stderr)
        return {"about": describe(device), "speed": speed, "recipes": recipes}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=4096, help="to make without a data root")
    parser.add_argument("--recipe-root", type=Path, help="images to run the recipes on")
    parser.add_argument("--recipes", nargs="*", default=["mini", "reference"])
    parser.add_argument("--recipe-options", default="--img-size 64 --arch resnet50")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--precisions", nargs="+", default=["fp16", "bf16"], choices=DTYPES)
    parser.add_argument("--workers", type=int, help="default: as train has it")
    parser.add_argument("--plain-workers", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case, after a warm-up")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all cases together")
    parser.add_argument("--compile-modes", nargs="*", default=["default", "reduce-overhead"])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--show", type=Path, help="measure nothing; print the tables of a file")
    options = parser.parse_args()
    if options.show is not None:
        print(to_markdown(json.loads(options.show.read_text("utf-8"))))
        return
    results = measure_all(options)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(to_markdown(results))


if __name__ == "__main__":
    main()
