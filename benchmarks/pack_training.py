"""Training speed from a pack and from image files, relative to one fixed batch.

    python benchmarks/pack_training.py [--data-root data/imagenet-mini] [--img-size 224] ...

All cases run the training loop of `train`, in turn, in several rounds. A ratio compares two cases
of one round, which ran within seconds of each other; the median of the ratios is reported. A ratio
of 1 means a loader without cost. Without a data root, JPEG files of the usual size in ImageNet are
generated.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as imgnet-mini's commands have it

import torch
from figures import write_photographs

from imgnet_mini.commands import prepare
from imgnet_mini.config.run_config import RunConfig, Tables
from imgnet_mini.data.splits import open_splits
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.device import choose_device, describe_device
from imgnet_mini.training.model import build_model
from imgnet_mini.training.throughput import TrainingBenchmark
from imgnet_mini.utils.signals import StopRequest

FIXED = "one batch"


def build_config(options: argparse.Namespace, folder: Path) -> RunConfig:
    """Return the settings; generate and pack the images if needed."""
    data_root = options.data_root or folder / "data"
    if options.data_root is None:
        write_photographs(data_root / "train", options.images)
        write_photographs(data_root / "val", 2)
    data = {"img_size": options.img_size, "batch_size": options.batch_size}
    if options.workers is not None:
        data["workers"] = options.workers
    config = RunConfig().override(
        {
            "run": {"data_root": data_root, "pack_dir": folder / "pack"},
            "data": data,
            "model": {"arch": options.arch},
            "runtime": {"device": options.device},
        }
    )
    prepare.run(config)
    return config


def build_subjects(
    config: RunConfig, device: torch.device, logger: RunLogger, stop: StopRequest
) -> dict[str, TrainingBenchmark]:
    """Return a benchmark of one network for each source of images."""
    sources: dict[str, Tables] = {
        "files": {"data": {"loader": "folder"}},
        "pack": {"data": {"loader": "pack", "pack_on_device": "off"}},
    }
    if device.type == "cuda":
        sources["pack on the GPU"] = {"data": {"loader": "pack", "pack_on_device": "on"}}
    configs = {name: config.override(changes) for name, changes in sources.items()}
    images = {name: open_splits(one.run, one.data) for name, one in configs.items()}
    model = build_model(
        config.model,
        classes=len(images["files"].train.classes),
        img_size=config.data.img_size,
        seed=0,
        device=device,
    )
    return {
        name: TrainingBenchmark(configs[name], images[name], model, logger, stop)
        for name in sources
    }


def measure(
    subjects: dict[str, TrainingBenchmark], rounds: int, seconds: float
) -> list[dict[str, float]]:
    """Return the images per second of each case, by round."""
    batch = subjects["files"].fixed_batch()
    return [
        {FIXED: subjects["files"].training(seconds, batch)}
        | {name: subject.training(seconds) for name, subject in subjects.items()}
        for _ in range(rounds)
    ]


def show(rounds: list[dict[str, float]], *, as_json: bool) -> None:
    figures = {
        name: {
            "images_per_second": statistics.median(rates[name] for rates in rounds),
            "ratio": statistics.median(rates[name] / rates[FIXED] for rates in rounds),
        }
        for name in rounds[0]
    }
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    print("| Images from | Images/s | Of one batch that never changes |")
    print("|:--|--:|--:|")
    for name, figure in figures.items():
        print(f"| {name} | {figure['images_per_second']:.1f} | {figure['ratio']:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, help="default: as train has it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=2048, help="to make without a data root")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each case in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = build_config(options, folder)
        device = choose_device(config.runtime)
        stop = stack.enter_context(StopRequest())
        logger = stack.enter_context(closing(RunLogger(RunPaths(folder, "bench"), [], step=0)))
        subjects = build_subjects(config, device, logger, stop)
        for subject in subjects.values():
            stack.enter_context(closing(subject))
        rounds = measure(subjects, options.rounds, options.seconds)
    print(
        f"{options.arch}, {options.batch_size} x {options.img_size} px, "
        f"{describe_device(device)}, torch {torch.__version__}, {options.rounds} rounds",
        file=sys.stderr,
    )
    show(rounds, as_json=options.json)


if __name__ == "__main__":
    main()
