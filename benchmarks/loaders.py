"""What it costs to load training batches: imgnet-mini's loaders and those of others, in one run.

    python benchmarks/loaders.py [--data-root FOLDER] [--images 256] [--rounds 7] [--workers 0]

FOLDER/train/ holds JPEG files as they come from a camera or from ImageNet; without it, files of
that size and weight are made. So many of them are copied to a temporary folder, where they are
read from memory, not from the disk. Each loader
then gives them all once per round: random resized crop, flipped or not, normalized float32
batches. The loaders take turns, round after round; a round's ratio compares what ran within
seconds of each other, and the median of the ratios is what counts.

    torchvision v1   ImageFolder, v1 transforms on PIL images, ToTensor, Normalize: the usual script
    albumentations   OpenCV reads; its resize, unlike all the others', does not antialias
    timm             create_dataset and create_loader
    torchvision v2   torchvision.io decodes, v2 transforms on uint8
    dali             a pipeline on the CPU
    folder           imgnet-mini on the files
    pack             imgnet-mini on what `imgnet-mini prepare` makes of them

The first two normalize image by image, as they usually do; from timm on, loaders give uint8, and
imgnet-mini's own Normalise makes each batch float32, channels last. With --workers 0 all is done
by one process on one core; else each has so many worker processes or, for dali and pack, threads.
Others that are not installed are left out.
"""

import argparse
import itertools
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

# Before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # as imgnet-mini's commands have it; it helps all
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the network for its latest version

import numpy as np
import torch
from figures import Row, add_output_options, describe_run, show, use_one_core, write_photographs
from other_loaders import CPU, MIN_CROP, OTHERS, Epoch, Task, quiet

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.crops import CROP_NUMBERS, sample_crop
from imgnet_mini.data.folder import ImageFolder, find_images
from imgnet_mini.data.loaders import build_train_loader
from imgnet_mini.data.pack.format import open_pack
from imgnet_mini.data.pack.plan import make_plan
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.errors import DataError

USUAL_SIZE = 500, 375  # of ImageNet's photographs


def build_ours(images: ImageSplits, task: Task, ending: ExitStack) -> Epoch:
    data = DataConfig(
        batch_size=task.batch_size,
        img_size=task.img_size,
        workers=task.workers,
        crop_scale_min=MIN_CROP,
    )
    loader = build_train_loader(data, images, seed=0, device=CPU)
    ending.callback(loader.close)
    epochs = itertools.count()
    return lambda: (batch for batch, _ in loader.epoch(next(epochs)))


def copy_images(data_root: Path | None, to: Path, count: int) -> ImageFolder:
    """So many images from all over the classes; or made ones."""
    if data_root is None:
        write_photographs(to, count)
        return find_images(to)
    try:
        source = find_images(data_root / "train")
    except DataError as error:
        sys.exit(str(error))
    if len(source) < count:
        sys.exit(f"{source.root} has {len(source)} images: --images {count} is too many")
    for index in np.linspace(0, len(source) - 1, count).round().astype(int):
        path = to / source.relative_path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path(index), path)
    return find_images(to)


def write_images(options: argparse.Namespace, folder: Path) -> ImageSplits:
    """The files and a pack of them; as validation images, a single one will do."""
    train = copy_images(options.data_root, folder / "train", options.images)
    val = replace(train, files=train.files[:1], targets=train.targets[:1])
    plan = make_plan(train, val, pack_size=options.pack_size, img_size=options.img_size)
    write_pack(plan, folder / "pack", skip=False, on_image=lambda *_: None)
    return ImageSplits(train, val, open_pack(folder / "pack", train, val))


def build_all(images: ImageSplits, task: Task, ending: ExitStack) -> dict[str, Epoch]:
    """Every loader that works here, after its first round, in which workers start."""
    epochs = {}
    for name, (packages, build) in OTHERS.items():
        try:
            with quiet():
                epoch = build(task)
                seconds(epoch, task)
        except ImportError as error:
            print(f"{name} is left out: {error}; pip install {packages}", file=sys.stderr)
        except RuntimeError as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        else:
            epochs[name] = epoch
    for name, given in (("folder", replace(images, pack=None)), ("pack", images)):
        epochs[name] = build_ours(given, task, ending)
        seconds(epochs[name], task)
    return epochs


def seconds(epoch: Epoch, task: Task) -> float:
    """The time of one epoch, which must give what all are to give."""
    began = time.perf_counter()
    count = 0
    for images in epoch():
        count += len(images)
    took = time.perf_counter() - began
    shape = (task.batch_size, 3, task.img_size, task.img_size)
    if count != task.images or images.shape != shape or images.dtype != torch.float32:
        raise RuntimeError(f"{count} images; the last batch is {images.dtype}, {images.shape}")
    return took


def measure(epochs: dict[str, Epoch], task: Task, rounds: int) -> list[Row]:
    base = next(iter(OTHERS))
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            with quiet() if name in OTHERS else nullcontext():
                times[name].append(seconds(epoch, task))
    return [
        {
            "Loader": name,
            "Images/s": task.images / statistics.median(took),
            "Ratio": statistics.median(b / t for b, t in zip(times[base], took, strict=True)),
        }
        for name, took in times.items()
    ]


def seeding_seconds(batch_size: int, repeats: int = 200) -> float:
    """What an image's random numbers and its crop's place cost."""
    indices = np.array(random.sample(range(100_000), batch_size))
    times = []
    for epoch in range(repeats):
        began = time.perf_counter()
        for numbers in uniforms(0, epoch, indices, CROP_NUMBERS).tolist():
            sample_crop(numbers, *USUAL_SIZE, crop_scale_min=MIN_CROP, flip=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times) / batch_size


def describe_seeding(rows: list[Row], batch_size: int) -> str:
    (rate,) = (float(row["Images/s"] or 0) for row in rows if row["Loader"] == "folder")
    took = seeding_seconds(batch_size)
    return (
        f"Random numbers and the crop's place: {1e6 * took:.1f} microseconds an image, "
        f"{took * rate:.2%} of the folder loader's time."
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, help="folder that holds train/")
    parser.add_argument("--images", type=int, default=256, help="per loader and round")
    parser.add_argument("--rounds", type=int, default=7, help="counted, after one to warm up")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pack-size", type=int, help="as of imgnet-mini prepare")
    parser.add_argument("--workers", type=int, default=0, help="0: one process on one core")
    parser.add_argument("--seeding", action="store_true", help="time the random numbers, too")
    add_output_options(parser)
    options = parser.parse_args()
    if options.images < 1 or options.images % options.batch_size:
        parser.error("--images must be a positive multiple of --batch-size")
    return options


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ending:
        images = write_images(options, Path(folder))
        task = Task(
            images.train.root,
            images=len(images.train),
            img_size=options.img_size,
            batch_size=options.batch_size,
            workers=options.workers,
        )
        if not options.workers:
            use_one_core()
        rows = measure(build_all(images, task, ending), task, options.rounds)
    others = " ".join(packages for packages, _ in OTHERS.values()).split()
    packages = dict.fromkeys([*others, "pillow", "simplejpeg", "imgnet-mini"])
    about = (
        f"Batches of {options.batch_size} x {options.img_size} px, {options.rounds} rounds of "
        f"{options.images} images, {options.workers or 'no'} workers; {describe_run(*packages)}"
    )
    note = describe_seeding(rows, options.batch_size) if options.seeding else ""
    show(options, rows, about=about, note=note)


if __name__ == "__main__":
    main()
