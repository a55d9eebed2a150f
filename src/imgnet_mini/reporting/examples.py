"""Validation images to show: which ones, their thumbnails, and what the network predicts."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imgnet_mini.errors import DataError
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.console import escape_line

ReadImage = Callable[[Path], Image.Image]
"""Decodes a file to RGB as for the network, or raises a DataError."""

DrawHeatMaps = Callable[[Sequence[str], Sequence[int]], Mapping[str, Image.Image]]
"""Returns images with heat maps by file name, for names of files and a class of each."""

_JPEG_QUALITY: Final = 80


@dataclass(frozen=True)
class PredictedClass:
    """One of the likeliest classes of an image, and its probability."""

    name: str
    probability: float
    is_true: bool


@dataclass(frozen=True)
class Example:
    """One image with its true class and its likeliest classes, best first.

    file: path relative to the validation folder, on one line.
    thumbnail: square; None if the file can no longer be read.
    heat_map: thumbnail with a heat map of the likeliest class; None without one.
    """

    file: str
    thumbnail: Image.Image | None
    true: str
    predictions: tuple[PredictedClass, ...]
    heat_map: Image.Image | None = None

    @property
    def top1(self) -> PredictedClass:
        """The likeliest class."""
        return self.predictions[0]

    @property
    def has_true_class(self) -> bool:
        """True if the true class is among the likeliest ones."""
        return any(predicted.is_true for predicted in self.predictions)

    @cached_property
    def data_uri(self) -> str | None:
        """The thumbnail as a JPEG; of pixels alone, without the file's metadata."""
        return None if self.thumbnail is None else _to_data_uri(self.thumbnail)

    @cached_property
    def heat_map_uri(self) -> str | None:
        """The heat map as a JPEG."""
        return None if self.heat_map is None else _to_data_uri(self.heat_map)


def read_thumbnails(
    files: Iterable[str], val_dir: Path, read_image: ReadImage, side: int
) -> dict[str, Image.Image]:
    """Return square thumbnails by file name, of the files that can be read.

    files: paths relative to `val_dir`; side: in pixels.
    """
    thumbnails = {}
    for file in dict.fromkeys(files):
        try:
            thumbnails[file] = ImageOps.fit(read_image(val_dir / file), (side, side))
        except DataError:
            continue
    return thumbnails


def make_example(
    predictions: Predictions,
    index: int,
    names: Sequence[str],
    thumbnails: Mapping[str, Image.Image],
) -> Example:
    """Return one image as an example.

    names: human name of each class; thumbnails: by file name.
    """
    file, target = predictions.images[index], int(predictions.targets[index])
    top, probabilities = predictions.top[index], predictions.probabilities[index]
    return Example(
        file=escape_line(file),
        thumbnail=thumbnails.get(file),
        true=names[target],
        predictions=tuple(
            PredictedClass(names[label], float(probability), label == target)
            for label, probability in zip(top.tolist(), probabilities, strict=True)
        ),
    )


def _to_data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    pixels = Image.fromarray(np.asarray(image))
    pixels.save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def choose_mixed(predictions: Predictions, count: int) -> list[int]:
    """Return indices of correct and wrong predictions, half of each if possible, by class.

    The choice is deterministic and covers as many classes as possible.
    """
    targets = predictions.targets
    correct, wrong = _split(predictions)
    wrong_count = min(len(wrong), max(count // 2, count - len(correct)))
    correct_count = min(len(correct), count - wrong_count)
    chosen = choose_spread(wrong, targets, wrong_count)
    other = correct[~np.isin(targets[correct], targets[chosen])]
    if len(np.unique(targets[other])) >= correct_count:
        correct = other
    chosen += choose_spread(correct, targets, correct_count)
    return sorted(chosen, key=lambda index: (targets[index], index))


def choose_spread(indices: NDArray[np.int64], targets: NDArray[np.int64], count: int) -> list[int]:
    """Return `count` of the indices, from as many classes and as far apart as possible.

    targets: (N,) true class of every image, indexed by `indices`.
    """
    by_class = indices[np.argsort(targets[indices], kind="stable")]
    pool = _alternate_classes(by_class, targets)[: max(count, len(np.unique(targets[indices])))]
    return [pool[place] for place in np.linspace(0, len(pool) - 1, count).astype(int)]


def choose_confident_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Return indices of the wrong predictions with the highest probabilities."""
    _, wrong = _split(predictions)
    return [int(index) for index in _most_confident(predictions, wrong)[:count]]


def choose_confident_hits(predictions: Predictions, count: int) -> list[int]:
    """Return indices of confident correct predictions, from as many classes as possible."""
    correct, _ = _split(predictions)
    return _alternate_classes(_most_confident(predictions, correct), predictions.targets)[:count]


def choose_hardest(predictions: Predictions, count: int, exclude: Sequence[int] = ()) -> list[int]:
    """Return indices of the images whose true class has the lowest probability.

    A class that is not among the likeliest K has at most the probability of the last of them.
    """
    is_true = predictions.top == predictions.targets[:, None]
    known = (predictions.probabilities * is_true).sum(1)
    bound = np.where(is_true.any(1), known, predictions.probabilities[:, -1])
    _, wrong = _split(predictions)
    order = wrong[np.argsort(bound[wrong], kind="stable")]
    return [int(index) for index in order[~np.isin(order, exclude)][:count]]


def choose_confusion(predictions: Predictions, true: int, predicted: int) -> tuple[int, int | None]:
    """Return the indices of two images that show how two classes are confused.

    The first is the most confident image of class `true` that is predicted as `predicted`. The
    second is an image of class `predicted`, a correct prediction if possible; None without one.
    """
    targets, top1 = predictions.targets, predictions.top[:, 0]
    mistaken = np.flatnonzero((targets == true) & (top1 == predicted))
    others = np.flatnonzero(targets == predicted)
    correct = others[top1[others] == predicted]
    shown = _most_confident(predictions, correct if len(correct) else others)
    return (
        int(_most_confident(predictions, mistaken)[0]),
        int(shown[0]) if len(shown) else None,
    )


def count_ranks(predictions: Predictions) -> list[int]:
    """Return how many images have their true class at rank 1, 2, ..., and last at none of them."""
    is_true = predictions.top == predictions.targets[:, None]
    found = is_true.sum(0).tolist()
    return [*found, len(predictions.targets) - sum(found)]


def _split(predictions: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the correct and of the wrong predictions."""
    is_correct = predictions.top[:, 0] == predictions.targets
    return np.flatnonzero(is_correct), np.flatnonzero(~is_correct)


def _most_confident(predictions: Predictions, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort by descending top-1 probability, ties in their own order."""
    return indices[np.argsort(-predictions.probabilities[indices, 0], kind="stable")]


def _alternate_classes(indices: NDArray[np.int64], targets: NDArray[np.int64]) -> list[int]:
    """Reorder so that one image of each class comes before a second one of any class."""
    seen: Counter[int] = Counter()
    rounds: list[tuple[int, int]] = []
    for index in indices.tolist():
        target = int(targets[index])
        rounds.append((seen[target], index))
        seen[target] += 1
    return [index for _, index in sorted(rounds, key=lambda entry: entry[0])]
