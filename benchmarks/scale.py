"""Start-up time and memory of a rank, by number of ranks on one machine.

    python benchmarks/scale.py [--files 1281167] [--classes 1000] [--ranks 1 2 4 8] [--dir FOLDER]

ImageNet-21k has 14,197,122 images in 21,841 classes.

So many training files are made, as in `scan.py`, and one validation file per class. Each row is one
start of torchrun; its figures are the largest of any rank. All ranks share the cores of this
machine, so times grow with their number where a machine with a core per rank would show none.

    join        process group: rendezvous, gloo, and the group of this machine
    open        list the images on one rank, map the list on the others
    order       shuffle an epoch and take the first batch
    gather      bring the top-5 predictions of 50,000 validation images together
    memory      private memory that the list and the order of the images take in a rank
    peak        memory that the rank that lists the images takes meanwhile

--headers: also read the header of each file, as the first start of a training does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from figures import Row, add_output_options, describe_run, show
from scan import CLASSES, SIZES, make_files, private_bytes

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.data.sampler import RankShard, ResumableBatchSampler
from imgnet_mini.distributed.process_group import init_distributed
from imgnet_mini.training.setup import open_splits_once

VAL_IMAGES, COLUMNS = 50_000, 12
"""Validation images of ImageNet; loss, target, and five classes with their probabilities."""

times: dict[str, float] = {}


@contextmanager
def timed(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times[f"{name}, s"] = time.perf_counter() - began


def resident_bytes(field: str) -> int:
    """Memory of this process now (`VmRSS`), or at most since `clear_refs` was written (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(root: Path, *, headers: bool) -> None:
    """Measure one rank; rank 0 prints the largest figures of all as JSON."""
    config = RunConfig().override({"run": {"data_root": root}, "data": {"loader": "folder"}})
    with ExitStack() as stack:
        with timed("join"):
            ranks = stack.enter_context(init_distributed(RuntimeConfig(device="cpu")))
        before, resident = private_bytes(), resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak starts here
        with timed("open"):
            images = open_splits_once(config, ranks, training=headers)
        times["peak, MB"] = (resident_bytes("VmHWM") - resident) / 1e6
        shard = RankShard(ranks.rank, ranks.world_size)
        batch_size = 32 * ranks.world_size
        sampler = ResumableBatchSampler(
            len(images.train), batch_size, seed=0, sizes=SIZES, shard=shard
        )
        with timed("order"):
            batches = iter(sampler)
            next(batches)
        times["memory, MB"] = (private_bytes() - before) / 1e6
        positions = torch.arange(ranks.rank, VAL_IMAGES, ranks.world_size)
        rows = torch.rand(len(positions), COLUMNS)
        with timed("gather"):
            ranks.all_gather_rows(rows, positions.numpy(), VAL_IMAGES)
        figures = ranks.all_gather(times)
        if ranks.is_main_process:
            print(json.dumps({name: max(rank[name] for rank in figures) for name in times}))


def start(ranks: int, root: Path, *, headers: bool) -> Row:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{ranks}"]
    words = [*launch, __file__, "--root", f"{root}", *(["--headers"] if headers else [])]
    environment = os.environ | {"XDG_CACHE_HOME": f"{root.parent / 'cache'}"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"ranks": ranks, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--dir", type=Path, help="folder for the files; default: a temporary one")
    parser.add_argument("--headers", action="store_true")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    add_output_options(parser)
    options = parser.parse_args()
    if options.root is not None:
        measure(options.root, headers=options.headers)
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        root = Path(folder) / "data"
        make_files(root / "train", options.files, options.classes)
        make_files(root / "val", options.classes, options.classes)
        rows = [start(ranks, root, headers=options.headers) for ranks in options.ranks]
    about = f"{options.files:,} training images, {options.classes:,} classes"
    show(options, rows, about=f"{about}, {describe_run()}", note="")


if __name__ == "__main__":
    main()
