"""Accuracy of training on packs and on image files, with the same recipe and seeds.

    python benchmarks/pack_accuracy.py --data-root data/tiny-imagenet-mini --work-dir out

Trains one network per source and seed, and prints the best validation top-1 of each, the mean
over the seeds and its standard deviation. The defaults scale the real case down: images of 64 px
are trained at 32 px, from packs of 38 and 48 px, as photographs of 434 px (the geometric mean of
the usual sides in ImageNet) are trained at 224 px from packs of 256 and 320 px.

Runs are kept in the work folder: finished ones are reused, stopped ones are resumed.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

RECIPE = (
    *("--epochs", "25", "--batch-size", "64", "--max-lr", "0.1"),
    *("--weight-decay", "0.0005", "--crop-scale-min", "0.25"),
)


def imgnet_mini(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "imgnet_mini", *arguments], check=True)


def best_top1(log: Path) -> float:
    """Return the best validation top-1 over all epochs, in percent."""
    with log.open(newline="") as file:
        return max(float(row["top1"]) for row in csv.DictReader(file) if row["phase"] == "val")


def measure(options: argparse.Namespace, pack_size: int, seed: int) -> float:
    """Train, or resume, one run; a pack size of 0 means the image files."""
    images = ["--data-root", str(options.data_root), "--img-size", str(options.img_size)]
    pack_dir = str(options.work_dir / f"pack{pack_size}")
    if pack_size:
        imgnet_mini("prepare", *images, "--pack-dir", pack_dir, "--pack-size", str(pack_size))
        source = ["--loader", "pack", "--pack-dir", pack_dir]
    else:
        source = ["--loader", "folder"]
    name = f"{'pack' if pack_size else 'files'}{pack_size or ''}-seed{seed}"
    run = ["--name", name, "--output-dir", str(options.work_dir), "--seed", str(seed)]
    imgnet_mini("train", "--resume", *images, *source, *run, "--arch", options.arch, *RECIPE)
    return best_top1(options.work_dir / "out" / name / "train_log.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--pack-sizes", type=int, nargs="+", default=[38, 48])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    results: dict[int, list[float]] = {size: [] for size in (0, *options.pack_sizes)}
    for seed in options.seeds:
        for size, found in results.items():
            found.append(measure(options, size, seed))
    print(f"\n{options.arch} at {options.img_size} px, {' '.join(RECIPE)}; best top-1 in percent\n")
    seeds = " | ".join(f"Seed {seed}" for seed in options.seeds)
    print(f"| Images from | {seeds} | Mean | Deviation |")
    print("|:--|" + "--:|" * (len(options.seeds) + 2))
    for size, found in results.items():
        source = f"pack of {size} px" if size else "files"
        figures = [*found, statistics.mean(found), statistics.stdev(found)]
        print(f"| {source} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")


if __name__ == "__main__":
    main()
