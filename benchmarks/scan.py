"""How start-up and memory grow with the number of images.

    python benchmarks/scan.py [--files 1000 35000 1281167] [--dir FOLDER] [--all]

For each number, so many files are made, named and spread over 1,000 class folders as ImageNet's
are; those of a class are links to one JPEG of 110 kB. They are removed at the end. All is timed on
one core, with the folders in the system's cache: the median of three runs, after a first one.

A first start lists the folders and looks at the header of every file; a restart lists them too,
and compares the size and the times of every file, to find those that it has to look at. With a
pack it also reads some 2,000 files, here of 110 kB, to compare their contents with those packed.

What one more worker process costs is seen in its private memory (Linux only): a spawned one
unpickles the images as a DataLoader's worker does, a forked one shares them with its parent
until they are touched; then each of them looks at every image once. Python takes memory a
mebibyte at a time: below some 100,000 images, that is most of the figure.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Row, add_output_options, describe_run, show, use_one_core
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder

from imgnet_mini.data.folder import ImageFolder, file_stamps, find_images, fingerprint
from imgnet_mini.data.pack.contents import SOURCE_DTYPE, find_changed_contents
from imgnet_mini.data.sampler import ProgressiveResize, ResumableBatchSampler
from imgnet_mini.data.scan import check_images_decode

COUNTS = [1_000, 35_000, 1_281_167]
"""The last two are the training images of ImageNet-Mini, about, and of ImageNet."""

CLASSES = 1_000
BATCH_SIZE = 64
SIZES = ProgressiveResize.constant(224)
RUNS = 3
MANY = 35_000  # with a million, torchvision's share of the run is half a minute
FILE_BYTES = 110_000
"""Mean of ImageNet."""
FILES_PER_SECOND = 200_000
BYTES_PER_IMAGE = 200
SMAPS = Path("/proc/self/smaps_rollup")


def make_files(root: Path, count: int, classes: int = CLASSES) -> None:
    """Files in the shape of ImageNet, such as n01440764/n01440764_10026.JPEG."""
    classes = min(classes, count)
    each, more = divmod(count, classes)
    done = 0
    for number in range(classes):
        name = f"n{1_440_764 + 14_077_000 * number // classes:08d}"
        folder = root / name
        folder.mkdir(parents=True)
        images = each + (number < more)
        first, *others = random.Random(number).sample(range(20_000), images)
        path = Path(f"{folder}/{name}_{first}.JPEG")
        Image.new("RGB", (32, 32)).save(path)
        path.write_bytes(path.read_bytes()[:-2].ljust(FILE_BYTES - 2, b"\0") + b"\xff\xd9")
        for image in others:
            os.link(f"{folder}/{name}_{first}.JPEG", f"{folder}/{name}_{image}.JPEG")
        done += images
        if done == count or (number % 50 == 49 and sys.stderr.isatty()):
            print(f"made {done:,} of {count:,} files", end="\r", file=sys.stderr)
    print(file=sys.stderr)


def times_of(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a first run, and the median of those after it."""
    times = []
    for _ in range(1 + RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times[0], statistics.median(times[1:])


class Before:
    """Unpickled, it is the private memory that the process had then."""

    def __reduce__(self) -> tuple[Callable[[], int], tuple[()]]:
        return private_bytes, ()


def private_bytes() -> int:
    """Memory that would be free without this process."""
    fields = (line.split() for line in SMAPS.read_text("ascii").splitlines())
    private = (line for line in fields if line[0] in {"Private_Clean:", "Private_Dirty:"})
    return 1024 * sum(int(line[1]) for line in private)


def worker_bytes(images: Any, few: Any, start: str) -> float | None:
    """Private memory that the images cost a new process, per image.

    few: images of the same kind, so that code which is loaded late is not counted.
    start: how the process is made, `spawn` or `fork`.
    """
    if not SMAPS.exists():
        return None
    context: Any = multiprocessing.get_context(start)
    receiver, sender = context.Pipe(duplex=False)
    # Arguments are unpickled one after the other; a forked process does not pickle at all.
    worker = context.Process(target=tell_growth, args=(sender, few, Before(), images))
    worker.start()
    sender.close()
    growth: int = receiver.recv()
    worker.join()
    return growth / len(images)


def tell_growth(answer: Connection, few: Any, before: int | Before, images: Any) -> None:
    touch(few)
    start = before if isinstance(before, int) else private_bytes()
    touch(images)
    answer.send(private_bytes() - start)


def seconds_of(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def start(root: Path) -> None:
    """What a run does before its first batch, but for the network."""
    images = find_images(root)
    check_images_decode(images)
    fingerprint(images)
    next(iter(ResumableBatchSampler(len(images), BATCH_SIZE, seed=0, sizes=SIZES)))


def touch(images: Any) -> None:
    """Look at every image, as loading does."""
    if isinstance(images, ImageFolder):
        for index in range(len(images)):
            os.fspath(images.path(index)), images.targets[index]
    else:
        for path, _ in images.samples:
            os.fspath(path)


def measure(root: Path, few_root: Path, *, torchvision: bool) -> dict[str, float | None]:
    """What is known of one folder, in the units of the keys."""
    images, few = find_images(root), find_images(few_root)
    count = len(images)
    first, warm = times_of(lambda: find_images(root))
    first_start = seconds_of(lambda: start(root))
    _, restarted = times_of(lambda: start(root))
    contents = np.zeros(count, SOURCE_DTYPE)
    _, compared = times_of(lambda: find_changed_contents(images, contents))
    _, stamps = times_of(lambda: file_stamps(images))
    _, batch = times_of(
        lambda: next(iter(ResumableBatchSampler(count, BATCH_SIZE, seed=0, sizes=SIZES)))
    )
    figures = {
        "find_images, first, ms": 1e3 * first,
        "find_images, ms": 1e3 * warm,
        "find_images, files/s": count / warm,
        "file_stamps, files/s": count / stamps,
        "sampler to the first batch, ms": 1e3 * batch,
        "first start, s": first_start,
        "restart, s": restarted,
        "contents of a pack compared, s": compared,
        "arrays, bytes an image": (images.files.nbytes + images.targets.nbytes) / count,
        "spawned worker, bytes an image": worker_bytes(images, few, "spawn"),
        "forked worker, bytes an image": worker_bytes(images, few, "fork"),
    }
    return figures | measure_torchvision(root, few_root, torchvision)


def measure_torchvision(root: Path, few_root: Path, wanted: bool) -> dict[str, float | None]:
    names = "ms", "files/s", "spawned worker, bytes an image", "forked worker, bytes an image"
    values: list[float | None] = [None] * len(names)
    if wanted:
        images, few = TorchvisionFolder(root), TorchvisionFolder(few_root)
        _, warm = times_of(lambda: TorchvisionFolder(root))
        spawned, forked = worker_bytes(images, few, "spawn"), worker_bytes(images, few, "fork")
        values = [1e3 * warm, len(images) / warm, spawned, forked]
    return {f"torchvision: {name}": value for name, value in zip(names, values, strict=True)}


def judge(figures: dict[str, float | None], count: int) -> str:
    speed = figures["find_images, files/s"] or 0.0
    met = {True: "met", False: "missed"}
    goals = [f"{FILES_PER_SECOND:,} files/s warm on one core {met[speed >= FILES_PER_SECOND]}"]
    for start in ("spawned", "forked"):
        memory = figures[f"{start} worker, bytes an image"]
        if memory is not None:
            verdict = met[memory <= BYTES_PER_IMAGE]
            goals.append(f"{BYTES_PER_IMAGE} bytes an image in a {start} worker {verdict}")
    return f"Goals, at {count:,} files: {', '.join(goals)}."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=COUNTS, help="how many, each")
    parser.add_argument("--dir", type=Path, help="where to make them; unset: a temporary folder")
    parser.add_argument("--all", action="store_true", help=f"torchvision above {MANY:,} files, too")
    add_output_options(parser)
    options = parser.parse_args()
    if min(options.files) < BATCH_SIZE:
        parser.error(f"--files must be at least {BATCH_SIZE}, one batch")
    torch.set_num_threads(1)
    use_one_core()
    results = {}
    for count in sorted(options.files):
        with tempfile.TemporaryDirectory(prefix="scan-", dir=options.dir) as folder:
            os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))  # not in the user's
            root, few_root = Path(folder, "train"), Path(folder, "few")
            make_files(few_root, 10)
            make_files(root, count)
            torchvision = options.all or count <= MANY
            results[count] = measure(root, few_root, torchvision=torchvision)
    quantities = list(next(iter(results.values())))
    rows: list[Row] = [
        {"Files": name} | {f"{count:,}": results[count][name] for count in results}
        for name in quantities
    ]
    about = f"Medians of {RUNS} runs, one core; " + describe_run("torchvision", "imgnet-mini")
    last = max(results)
    show(options, rows, about=about, note=judge(results[last], last))


if __name__ == "__main__":
    main()
