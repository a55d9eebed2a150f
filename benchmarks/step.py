"""Time of the trainer's step against a bare PyTorch loop, or against another checkout.

    python benchmarks/step.py [--arch resnet50] [--img-size 64] [--batch-size 32] [--device auto]
    python benchmarks/step.py --against OTHER_CHECKOUT

The loops train the same network on one fixed batch, in turn, round after round. A round's ratio
compares loops that ran within seconds of each other; the median of the ratios is reported.

    bare       autocast, channels last, fused SGD, OneCycleLR: nothing but the step
    engine     the same through Trainer.train_epoch, with its metrics, TensorBoard and checks
    reference  a common script: float32, contiguous, `.item()` for loss and top-1 each step

With --against, two processes, each with the package and the benchmark of one checkout, take turns.
On a busy machine, CPU time with OMP_NUM_THREADS=1 is the steadier measure.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as imgnet-mini's commands have it

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.config.training_settings import ModelConfig, ResolvedOptimizer, ScheduleConfig
from imgnet_mini.data.loaders import BatchLoader
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.runs.logger import RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.device import choose_device, describe_device
from imgnet_mini.training.model import build_model
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import Precision, choose_precision
from imgnet_mini.training.train_state import StepLogger
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.signals import StopRequest

CLASSES = 1000
MAX_LR = 1e-3  # small: a batch that never changes must not blow up the weights
TOTAL_STEPS = 1_000_000
LOOPS = ("bare", "engine", "reference")
"""In the order of a round."""


class FixedLoader(BatchLoader):
    """A loader that costs nothing: the same batch, so many times."""

    def __init__(self, images: Tensor, targets: Tensor, steps: int) -> None:
        self._batch = images, targets
        self._steps = steps
        self.images_per_step = len(images)

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        del epoch
        for _ in range(start, self._steps):
            yield self._batch


def build_bare(
    model: nn.Module, precision: Precision, images: Tensor, targets: Tensor, steps: int
) -> Callable[[], None]:
    criterion, optimizer, scheduler = build_parts(model)
    scaler = precision.build_scaler()

    def run() -> None:
        model.train()
        for _ in range(steps):
            with precision.autocast():
                loss = criterion(model(images), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()

    return run


def build_engine(
    model: nn.Module,
    precision: Precision,
    loader: FixedLoader,
    logger: StepLogger,
    stop: StopRequest,
    *,
    ranks: DistributedContext = SINGLE_PROCESS,
) -> Callable[[], None]:
    criterion, optimizer, scheduler = build_parts(model)
    trainer = Trainer(model, criterion, optimizer, scheduler, precision, distributed=ranks)

    def run() -> None:
        trainer.train_epoch(loader, logger, stop)
        trainer.state.finish_epoch(0.0)

    return run


def build_reference(
    model: nn.Module, images: Tensor, targets: Tensor, steps: int
) -> Callable[[], None]:
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), MAX_LR, momentum=0.9, weight_decay=1e-4)
    scheduler = OneCycleLR(optimizer, MAX_LR, total_steps=TOTAL_STEPS)
    images = images.contiguous()

    def run() -> None:
        model.train()
        total = correct = 0.0
        for _ in range(steps):
            optimizer.zero_grad()
            logits = model(images)
            loss = criterion(logits, targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
            correct += (logits.argmax(1) == targets).sum().item()

    return run


def build_parts(model: nn.Module) -> tuple[nn.CrossEntropyLoss, torch.optim.Optimizer, OneCycleLR]:
    settings = ResolvedOptimizer()
    optimizer = build_optimizer(settings, model, lr=MAX_LR)
    scheduler = build_scheduler(ScheduleConfig(), optimizer, max_lr=MAX_LR, total_steps=TOTAL_STEPS)
    return build_loss(settings), optimizer, scheduler


def seconds(run: Callable[[], None], device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


TIMER = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("step", sys.argv.pop(1))
step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(step)
measure = step.seconds

def measure_when_asked(run, device):
    if input() == "skip":
        return 1.0
    began = time.process_time()
    elapsed = measure(run, device)
    print(elapsed, time.process_time() - began, flush=True)
    return elapsed

step.seconds = measure_when_asked
step.main()
"""
"""Runs the benchmark of a checkout, which waits before each loop of a round until it is asked."""


def compare_checkouts(options: argparse.Namespace) -> None:
    trees = {"this": Path(__file__).resolve().parents[1], "other": options.against.resolve()}
    timers = {name: start_timer(tree, options) for name, tree in trees.items()}
    rounds = []
    try:
        for number in range(options.rounds + 1):
            names = list(timers)[:: -1 if number % 2 else 1]
            times = {loop: {name: ask(timers[name], loop) for name in names} for loop in LOOPS}
            rounds.append(times)
    finally:
        for timer in timers.values():
            timer.kill()
            timer.communicate()
    for loop in ("engine", "bare"):
        for place, clock in enumerate(("wall", "CPU")):
            ratios = sorted(
                times[loop]["this"][place] / times[loop]["other"][place] for times in rounds[1:]
            )
            print(
                f"{loop:<7} {clock:<4} time, this / other: median {statistics.median(ratios):.4f} "
                f"({ratios[0]:.4f} to {ratios[-1]:.4f} in {len(ratios)} rounds)"
            )


def start_timer(tree: Path, options: argparse.Namespace) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TIMER, str(tree / "benchmarks/step.py")]
    for name in ("arch", "img_size", "batch_size", "device", "steps"):
        value = getattr(options, name)
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    return subprocess.Popen(
        [*command, "--rounds", str(options.rounds + 1)],
        env=os.environ | {"PYTHONPATH": str(tree / "src")},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def ask(timer: "subprocess.Popen[str]", loop: str) -> list[float]:
    """Let a process run a loop; return the seconds of wall and of CPU time it took."""
    if timer.stdin is None or timer.stdout is None:
        raise ValueError("a timer is asked through pipes")
    if loop == "reference":
        print("skip", file=timer.stdin, flush=True)
        return [1.0, 1.0]
    print("run", file=timer.stdin, flush=True)
    return [float(seconds) for seconds in timer.stdout.readline().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, help="per loop and round; 4 on a CPU, else 50")
    parser.add_argument("--rounds", type=int, default=9, help="counted, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--against", type=Path, help="another checkout of imgnet-mini")
    options = parser.parse_args()
    if options.against:
        compare_checkouts(options)
        return

    runtime = RuntimeConfig(device=options.device)
    device = choose_device(runtime)
    precision = choose_precision(runtime, device)
    steps = options.steps or (4 if device.type == "cpu" else 50)
    shape = (options.batch_size, 3, options.img_size, options.img_size)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (options.batch_size,), device=device)
    model = build_model(
        ModelConfig(arch=options.arch),
        classes=CLASSES,
        img_size=options.img_size,
        seed=0,
        device=device,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(RunLogger(RunPaths(Path(folder), "bench"), [], step=0)) as logger,
        StopRequest() as stop,
    ):
        loops = {
            "bare": build_bare(copy.deepcopy(model), precision, images, targets, steps),
            "engine": build_engine(
                copy.deepcopy(model),
                precision,
                FixedLoader(images, targets, steps),
                logger,
                stop,
            ),
            "reference": build_reference(
                model.to(memory_format=torch.contiguous_format), images, targets, steps
            ),
        }
        for run in loops.values():
            run()
        rounds = [
            {name: seconds(run, device) for name, run in loops.items()}
            for _ in range(options.rounds)
        ]
    figures = {
        name: {
            "images_per_second": steps * options.batch_size / statistics.median(times),
            "time_ratio_to_bare": statistics.median(
                one / bare for one, bare in zip(times, [r["bare"] for r in rounds], strict=True)
            ),
        }
        for name in loops
        for times in [[r[name] for r in rounds]]
    }
    print(
        f"{options.arch}, {options.batch_size} x {options.img_size} px, {precision.name}, "
        f"{describe_device(device)}, torch {torch.__version__}, {options.rounds} rounds of {steps} "
        "steps",
        file=sys.stderr,
    )
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{'loop':<10} {'images/s':>9} {'time, bare = 1':>15}")
    for name, figure in figures.items():
        print(
            f"{name:<10} {figure['images_per_second']:>9.1f} {figure['time_ratio_to_bare']:>15.3f}"
        )


if __name__ == "__main__":
    main()
