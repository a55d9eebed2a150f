"""Make image folders of the classes of Tiny-ImageNet that are not in another image folder.

    python benchmarks/other_classes.py tiny-imagenet-200 --except data/tiny-imagenet-mini --out out

Writes out/other-a and out/other-b, with every second class each: 35 training images per class and
100 validation images, both from the training images of Tiny-ImageNet in the order of their numbers.
Settings were chosen on other-a, and nothing on other-b.
"""

import argparse
import shutil
from pathlib import Path
from typing import Final

TRAIN: Final = 35
VAL: Final = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="Tiny-ImageNet, with train/<class>/images")
    parser.add_argument("--except", type=Path, required=True, dest="known", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    known = {path.name for path in (options.known / "train").iterdir()}
    others = sorted({path.name for path in (options.source / "train").iterdir()} - known)
    for half, names in (("other-a", others[::2]), ("other-b", others[1::2])):
        for name in names:
            copy_class(options.source / "train" / name / "images", options.out / half, name)


def copy_class(source: Path, folder: Path, name: str) -> None:
    """Copy the first images of a class to train/ and val/ of a folder."""
    images = sorted(source.iterdir(), key=lambda path: int(path.stem.rpartition("_")[2]))
    for split, part in (("train", images[:TRAIN]), ("val", images[TRAIN : TRAIN + VAL])):
        (folder / split / name).mkdir(parents=True)
        for path in part:
            shutil.copy(path, folder / split / name)


if __name__ == "__main__":
    main()
