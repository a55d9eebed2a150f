"""Images of a training folder that are held out for validation."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.config.data_settings import HoldOut
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.errors import DataError


def hold_out_val(
    images: ImageFolder, settings: HoldOut, listed: NDArray[np.bytes_] | None = None
) -> tuple[ImageFolder, ImageFolder]:
    """Return the images to train and to validate on.

    listed: files to validate on, such as a run has held out; None: see `choose_held_out`.

    Raises:
        DataError: no image is left to validate on.
    """
    if listed is None:
        counts = np.bincount(images.targets, minlength=len(images.classes)).tolist()
        held_out = choose_held_out(images.files.tolist(), images.classes, counts, settings)
    else:
        held_out = np.isin(images.files, listed)
    if not held_out.any():
        raise DataError(
            f"{images.root} has no two images of one class to hold out one of them "
            f"(--val-split {settings.val_split:g})"
        )
    return split_off(images, held_out, settings)


def split_as_listed(
    train: ImageFolder, val: ImageFolder, listed: NDArray[np.bytes_]
) -> tuple[ImageFolder, ImageFolder]:
    """Return all images of one folder again, split as a run has held them out."""
    files = np.concatenate([train.files, val.files])
    targets = np.concatenate([train.targets, val.targets])
    images = replace(train, files=files, targets=targets)
    return split_off(images, np.isin(files, listed), train.hold_out)


def split_off(
    images: ImageFolder, held_out: NDArray[np.bool_], settings: HoldOut
) -> tuple[ImageFolder, ImageFolder]:
    """Return the images without and with this mark: (N,)."""
    train, val = (
        replace(images.select(mask), part=part, hold_out=settings)
        for part, mask in (("train", ~held_out), ("val", held_out))
    )
    return train, replace(val, ignored={})  # the files around them are counted once


def choose_held_out(
    files: Sequence[bytes], classes: Sequence[str], counts: Sequence[int], settings: HoldOut
) -> NDArray[np.bool_]:
    """Return which images are held out, by class: (N,).

    Of n images of a class, `val_split` * n, rounded up or down at random; at least one, and at
    least one is left. The choice depends on the seed and on the names of the class alone: other
    classes, their order and the machine do not matter.

    files: ordered by class, as `<class>/<image>`; counts: of each class.
    """
    held_out = np.zeros(len(files), np.bool_)
    first = 0
    for name, count in zip(classes, counts, strict=True):
        # The threshold of a class rounds its share.
        share = settings.val_split * count + _uniform(os.fsencode(name), settings)
        chosen = min(max(int(share), 1), max(count - 1, 0))
        draws = [_uniform(file, settings) for file in files[first : first + count]]
        held_out[first + np.argsort(draws, kind="stable")[:chosen]] = True
        first += count
    return held_out


def _uniform(name: bytes, settings: HoldOut) -> float:
    """Return a number in [0, 1), by a hash of seed and name."""
    seed = settings.val_split_seed.to_bytes(8)
    digest = hashlib.blake2b(name, digest_size=8, key=seed).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53
