"""Plan of a pack, and the conversion of one image to a row of it."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from imgnet_mini.config.data_settings import DEFAULT_DECODING, EARLIER_DECODING, Decoding
from imgnet_mini.data.fit import Color, padding_color, place_in_square
from imgnet_mini.data.folder import ImageFolder, file_stamps
from imgnet_mini.data.images import ImageError, decode, image_size
from imgnet_mini.data.pack.contents import content_digest
from imgnet_mini.data.pack.format import FORMAT, SPLITS
from imgnet_mini.data.transforms import EvalCrop

DETAIL: Final = 1.5
"""Side of the squashed images relative to the training crops; 8/7 costs accuracy."""


@dataclass(frozen=True)
class PackPlan:
    """Source files of a pack, and the sides of the packed images in pixels.

    stamps: (N, 3) by split, size, modification and change time, see `file_stamps`.
    """

    splits: dict[str, ImageFolder]
    stamps: dict[str, NDArray[np.int64]]
    pack_size: int
    img_size: int
    eval_size: int
    decoding: Decoding

    def side(self, split: str) -> int:
        """Return the side of the images of a split."""
        return self.pack_size if split == "train" else self.eval_size

    @property
    def nbytes(self) -> int:
        """Size of the pack on disk, to within 1 %."""
        return sum(3 * len(self.splits[split]) * self.side(split) ** 2 for split in SPLITS)

    @cached_property
    def id(self) -> str:
        """Hash of the settings and of the names, classes and sizes of the files."""
        sizes = [self.pack_size, self.img_size]
        sizes += [self.eval_size] if self.eval_size != self.img_size else []
        settings: list[object] = [FORMAT, *sizes]
        if self.decoding != EARLIER_DECODING:  # whose packs keep their id
            fit = {"fit"} if self.decoding.fit == "crop" else None  # packs without it keep their id
            settings.append(self.decoding.model_dump(exclude=fit))
        digest = hashlib.sha256(json.dumps(settings).encode())
        for split, images in self.splits.items():
            digest.update("\0".join(images.classes).encode("utf-8", "surrogateescape"))
            for part in (images.files, images.targets, self.stamps[split][:, 0]):
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    @cached_property
    def key(self) -> str:
        """Hash of `id`, file times and decoder versions: none may change during a build."""
        decoders = (PIL.__version__, version("simplejpeg"), str(torch.__version__))
        digest = hashlib.sha256(json.dumps([self.id, *decoders]).encode())
        for split in SPLITS:
            digest.update(np.ascontiguousarray(self.stamps[split][:, 1]).data)
        return digest.hexdigest()


def make_plan(
    train: ImageFolder,
    val: ImageFolder,
    *,
    pack_size: int | None,
    img_size: int,
    eval_size: int | None = None,
    decoding: Decoding = DEFAULT_DECODING,
) -> PackPlan:
    """Plan a pack of these images.

    pack_size: side of the training images. None: 3/2 of img_size, but not more than the longest
        side of any training image; square images of that side are stored unchanged.
    eval_size: side of the validation images. None: img_size.
    """
    return PackPlan(
        splits={"train": train, "val": val},
        stamps={"train": file_stamps(train), "val": file_stamps(val)},
        pack_size=pack_size or _longest_side(train, round(DETAIL * img_size)),
        img_size=img_size,
        eval_size=img_size if eval_size is None else eval_size,
        decoding=decoding,
    )


def _longest_side(images: ImageFolder, enough: int) -> int:
    """Return the longest side of any image, at most `enough`; skip files that cannot be read."""
    longest = 1
    for index in range(len(images)):
        with suppress(ImageError):
            longest = max(longest, *image_size(images.path(index)))
        if longest >= enough:
            return enough
    return longest


class PackedImage(NamedTuple):
    """An image as stored in a pack.

    square: (S, S, 3) uint8.
    width, height: of the original.
    histogram: (3, 256), number of pixels by channel and value.
    digest: of the source file, see `content_digest`.
    warning: damage that did not prevent decoding, see `decode`.
    """

    square: NDArray[np.uint8]
    width: int
    height: int
    histogram: NDArray[np.int64]
    digest: int
    warning: str | None


class ImagePacker:
    """Converts image files of one split to rows of a pack."""

    def __init__(self, plan: PackPlan, split: str) -> None:
        self._side = plan.side(split)
        self._decoding = plan.decoding
        self._crop = EvalCrop(plan.eval_size, decoding=plan.decoding) if split == "val" else None

    def __call__(self, path: Path) -> PackedImage:
        """Decode an image, and make it the square of training or that of evaluation.

        Raises:
            ImageError: the file cannot be decoded.
        """
        pixels, warning = decode(path, self._decoding)
        height, width = pixels.shape[:2]
        square = np.array(self._crop(pixels)) if self._crop else self._training_square(pixels)
        histogram = np.array(Image.fromarray(square).histogram()).reshape(3, 256)
        return PackedImage(square, width, height, histogram, content_digest(path), warning)

    def _training_square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the whole image: squashed, whose crops undo that, or padded."""
        if self._decoding.fit == "pad":
            return pad_pixels(pixels, self._side, padding_color(self._decoding.background))
        return squash(pixels, self._side)


def pad_pixels(pixels: NDArray[np.uint8], side: int, color: Color) -> NDArray[np.uint8]:
    """Return (side, side, 3) with all of (H, W, 3) in its middle: bicubic, antialiased."""
    left, top, width, height = place_in_square(pixels.shape[1], pixels.shape[0], side)
    square = np.full((side, side, 3), color, np.uint8)
    square[top : top + height, left : left + width] = _resize(pixels, width, height)
    return square


def squash(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to (side, side, 3), ignoring the aspect ratio: bicubic, antialiased."""
    return _resize(pixels, side, side)


def _resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)[0]
    return resized.permute(1, 2, 0).numpy()
