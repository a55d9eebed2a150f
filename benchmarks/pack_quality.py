"""Image quality of crops from a pack against crops from the originals, by size and filter.

    python benchmarks/pack_quality.py --images data/imagenet-mini/train

For some images, and some random crops of each at 224 px:

    as drawn   peak signal-to-noise ratio (PSNR) against the crop from the original, in dB. A crop
               from a pack starts and ends on whole pixels of the squashed image: up to half a
               pixel off, which to training is just another random crop.
    aligned    PSNR against the original at exactly that place: the cost of resizing twice.
    sharpness  mean absolute Laplacian relative to that of the crop from the original; median.

Medians over all crops. Disk space is for the 34,745 training images of ImageNet-Mini.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from imgnet_mini.data.crops import CROP_NUMBERS, Crop, crop_image, sample_crop, scale_crop
from imgnet_mini.data.folder import find_images
from imgnet_mini.data.images import read_pixels
from imgnet_mini.data.rng import uniforms

SIDE = 224
IMAGENET_MINI = 34_745
FILTERS = ("bilinear", "bicubic")


def squash(pixels: NDArray[np.uint8], side: int, mode: str) -> NDArray[np.uint8]:
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(image, size=(side, side), mode=mode, antialias=True)[0]
    return resized.permute(1, 2, 0).numpy()


def aligned_crop(pixels: NDArray[np.uint8], crop: Crop, side: int) -> NDArray[np.uint8]:
    """Crop the original at the place, in fractions of a pixel, of a crop of the squashed image."""
    height, width = pixels.shape[:2]
    across, down = width / side, height / side
    box = (
        crop.left * across,
        crop.top * down,
        (crop.left + crop.width) * across,
        (crop.top + crop.height) * down,
    )
    part = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    return np.array(part)[:, ::-1] if crop.hflip else np.array(part)


def decibels(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    error = float(np.mean((ours.astype(np.float64) - theirs) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def sharpness(image: NDArray[np.uint8]) -> float:
    gray = image.astype(np.float64).mean(2)
    inner = gray[1:-1, 1:-1]
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return float(np.abs(4 * inner - around).mean())


def compare(
    pixels: NDArray[np.uint8], crop: Crop, square: NDArray[np.uint8]
) -> tuple[float, float, float]:
    height, width = pixels.shape[:2]
    side = len(square)
    original = crop_image(pixels, crop, SIDE).permute(1, 2, 0).numpy()
    squashed = scale_crop(crop, (width, height), (side, side))
    packed = crop_image(square, squashed, SIDE).permute(1, 2, 0).numpy()
    aligned = aligned_crop(pixels, squashed, side)
    relative = sharpness(packed) / max(sharpness(aligned), 1e-6)
    return decibels(packed, original), decibels(packed, aligned), relative


def crops_of(index: int, count: int, width: int, height: int) -> Iterator[Crop]:
    numbers = uniforms(0, 0, np.arange(index * count, (index + 1) * count), CROP_NUMBERS)
    for drawn in numbers.tolist():
        yield sample_crop(drawn, width, height, crop_scale_min=0.08, flip=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of class folders")
    parser.add_argument("--count", type=int, default=300, help="images to take")
    parser.add_argument("--crops", type=int, default=4, help="of each image")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 256, 288, 336, 384])
    options = parser.parse_args()

    split = find_images(options.images)
    step = max(1, len(split) // options.count)
    found: dict[tuple[int, str], list[tuple[float, float, float]]] = {
        (size, mode): [] for size in options.sizes for mode in FILTERS
    }
    for index in range(0, len(split), step):
        pixels = read_pixels(split.path(index))
        height, width = pixels.shape[:2]
        for (size, mode), figures in found.items():
            square = squash(pixels, size, mode)
            figures += [
                compare(pixels, crop, square)
                for crop in crops_of(index, options.crops, width, height)
            ]
    print("| Pack size | Filter | As drawn, dB | Aligned, dB | Sharpness | Disk, GB |")
    print("|--:|:--|--:|--:|--:|--:|")
    for (size, mode), figures in found.items():
        drawn, aligned, sharp = (median(column) for column in zip(*figures, strict=True))
        disk = IMAGENET_MINI * 3 * size**2 / 1e9
        print(f"| {size} | {mode} | {drawn:.1f} | {aligned:.1f} | {sharp:.2f} | {disk:.1f} |")


if __name__ == "__main__":
    main()
