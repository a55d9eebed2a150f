"""Training speed on several ranks, relative to a plain DistributedDataParallel loop.

    python benchmarks/ranks.py [--ranks 2] [--arch resnet50] [--img-size 64] [--batch-size 16]

Starts torchrun with that many ranks, each with one thread on a CPU or one GPU. Both loops train the
same network on one fixed batch, in turn, in several rounds. A ratio compares the two loops of one
round, which ran within seconds of each other; the median of the ratios is reported.

    plain   DistributedDataParallel, autocast, channels last, fused SGD, OneCycleLR
    engine  the same in Trainer.train_epoch, with its metrics, TensorBoard and checks
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from step import CLASSES, FixedLoader, build_bare, build_engine, seconds
from torch.nn.parallel import DistributedDataParallel

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.distributed.process_group import init_distributed
from imgnet_mini.runs.logger import NullLogger, RunLogger
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.device import choose_device, describe_device
from imgnet_mini.training.model import build_model
from imgnet_mini.training.precision import choose_precision
from imgnet_mini.training.train_state import StepLogger
from imgnet_mini.utils.signals import StopRequest

GOAL = 1.03


def measure(options: argparse.Namespace, ranks: DistributedContext) -> None:
    runtime = RuntimeConfig(device=options.device)
    device = choose_device(runtime, ranks)
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
        StopRequest(distributed=ranks.world_size > 1) as stop,
        ExitStack() as stack,
    ):
        logger: StepLogger = NullLogger()
        if ranks.is_main_process:
            run_logger = RunLogger(RunPaths(Path(folder), "bench"), [], step=0)
            logger = stack.enter_context(closing(run_logger))
        loader = FixedLoader(images, targets, steps)
        loops = {
            "plain": build_bare(
                DistributedDataParallel(copy.deepcopy(model)), precision, images, targets, steps
            ),
            "engine": build_engine(model, precision, loader, logger, stop, ranks=ranks),
        }
        for run in loops.values():
            run()
        rounds = []
        for _ in range(options.rounds):
            times = {}
            for name, run in loops.items():
                ranks.barrier()
                times[name] = seconds(run, device)
            rounds.append(times)
    if not ranks.is_main_process:
        return
    ratio = statistics.median(times["engine"] / times["plain"] for times in rounds)
    rates = {
        name: ranks.world_size
        * steps
        * options.batch_size
        / statistics.median(t[name] for t in rounds)
        for name in loops
    }
    print(
        f"{options.arch}, {ranks.world_size} ranks x {options.batch_size} x {options.img_size} px, "
        f"{precision.name}, {describe_device(device)}, torch {torch.__version__}, "
        f"{options.rounds} rounds of {steps} steps",
        file=sys.stderr,
    )
    if options.json:
        print(json.dumps({"images_per_second": rates, "time_ratio_to_plain": ratio}, indent=2))
        return
    for name, rate in rates.items():
        print(f"{name:<8} {rate:>8.1f} images/s")
    verdict = "reached" if ratio < GOAL else "missed"
    print(f"engine / plain, time: {ratio:.3f} (goal: below {GOAL}, {verdict})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16, help="of each rank")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, help="per loop and round; 4 on a CPU, else 50")
    parser.add_argument("--rounds", type=int, default=9, help="counted, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        launch = ["--standalone", "--nproc-per-node", str(options.ranks), __file__, *sys.argv[1:]]
        command = [sys.executable, "-m", "torch.distributed.run", *launch]
        raise SystemExit(subprocess.run(command, check=False).returncode)
    with init_distributed(RuntimeConfig(device=options.device)) as ranks:
        measure(options, ranks)


if __name__ == "__main__":
    main()
