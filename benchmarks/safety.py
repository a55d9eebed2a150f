"""What it costs that a run can be trusted, in one run: a save, and the checks of every step.

    python benchmarks/safety.py [--data-root FOLDER] [--arch resnet50] [--img-size 64] [--rounds 9]

Saves: a checkpoint with its momentum through `CheckpointStore` (digest, flush, list, a second
name, rotation) and by plain `torch.save` to a file, in turn; medians and the ratio within rounds.
A run waits only for the check of its state and the copy in host memory, which are timed too.

Steps: training from image files in one process. The time spent in what keeps a run exact and
safe (order and random numbers of each image, looks for signals, a finite loss, finite weights
before a save) is summed, and divided by the time of the whole. Without --data-root, images are
made.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as imgnet-mini's commands have it

import numpy as np
import torch
from PIL import Image

from imgnet_mini.checkpoint.host_copy import HostCopier
from imgnet_mini.checkpoint.schema import RunCheckpoint
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.sampler import ResumableBatchSampler
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.peak_lr import find_max_lr
from imgnet_mini.training.setup import build_setup, build_trainer
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.signals import StopRequest


class Clock:
    """Adds up the time spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_root = options.data_root or _make_images(folder / "data", options.img_size)
        config = RunConfig().override(
            {
                "run": {"data_root": data_root, "output_dir": folder, "name": "safety"},
                "data": {"img_size": options.img_size, "workers": 0, "loader": "folder"},
                "model": {"arch": options.arch},
            }
        )
        resolved = config.resolve(find_max_lr(config, RunPaths(folder, "safety")))
        print(json.dumps(_measure(resolved, options.rounds), indent=2))


def _measure(config: ResolvedConfig, rounds: int) -> dict[str, object]:
    setup = build_setup(config)
    trainer = build_trainer(config, setup)
    paths = RunPaths(config.run.output_dir, "safety")
    clock = Clock()
    with (
        closing(setup.train_loader) as loader,
        closing(RunLogger(paths, [], step=0)) as logger,
        StopRequest() as stop,
        _watched(clock),
    ):
        began = time.perf_counter()
        trainer.train_epoch(loader, logger, stop)
        state = trainer.state_dict()
        whole = time.perf_counter() - began
    copier = HostCopier()
    pauses = [_pause_of_a_save(trainer, copier) for _ in range(rounds + 1)]
    return {
        "arch": config.model.arch,
        "images": len(loader) * config.data.batch_size,
        "seconds of training": round(whole, 2),
        "share of checks": round(clock.seconds / whole, 5),
        "pause of training for a save, seconds": round(statistics.median(pauses[1:]), 3),
        **_time_saves(_checkpoint_of(config, state), paths, rounds),
        "torch": str(torch.__version__),
    }


def _pause_of_a_save(trainer: Trainer, copier: HostCopier) -> float:
    began = time.perf_counter()
    copied = copier.copy(trainer.state_dict())
    seconds = time.perf_counter() - began
    copied.wait()
    return seconds


def _watched(clock: Clock) -> ExitStack:
    stack = ExitStack()
    order = ResumableBatchSampler.__iter__
    watched: dict[str, Callable[..., Any]] = {
        "imgnet_mini.data.folder_source.uniforms": uniforms,
        "imgnet_mini.data.sampler.ResumableBatchSampler.__iter__": lambda self: iter(
            list(order(self))
        ),
        "imgnet_mini.utils.signals.StopRequest.check": StopRequest.check,
        f"{Trainer.__module__}.Trainer._check_finite": Trainer._check_finite,
        "math.isfinite": math.isfinite,
    }
    for place, function in watched.items():
        stack.enter_context(patch(place, clock.around(function)))
    return stack


def _checkpoint_of(config: RunConfig, state: dict[str, Any]) -> RunCheckpoint:
    about = {"config": config.model_dump(mode="json"), "classes": ["a"], "images": "0" * 64}
    return RunCheckpoint.model_validate(
        state | about | {"environment": {"world_size": 1}, "records": []}
    )


def _time_saves(checkpoint: RunCheckpoint, paths: RunPaths, rounds: int) -> dict[str, object]:
    store = CheckpointStore(paths, keep=2)
    plain = paths.checkpoint_dir / "plain.bin"
    ours, theirs = [], []
    for _ in range(rounds + 1):
        checkpoint.state.step += 1
        began = time.perf_counter()
        store.save(checkpoint)
        between = time.perf_counter()
        with plain.open("wb") as file:
            torch.save(checkpoint.to_dict(), file)
        ours.append(between - began)
        theirs.append(time.perf_counter() - between)
    ratios = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]
    return {
        "checkpoint MB": round(paths.checkpoint.stat().st_size / 1e6, 1),
        "save, seconds": round(statistics.median(ours[1:]), 3),
        "torch.save alone, seconds": round(statistics.median(theirs[1:]), 3),
        "ratio": round(statistics.median(ratios), 2),
        "rounds": rounds,
    }


def _make_images(root: Path, size: int) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 1)):
        for label in range(16):
            folder = root / split / f"{label:02d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
                image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
                image.save(folder / f"{number:03d}.JPEG", quality=90)
    return root


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
