"""Validation images as a page shows them: what they are, and what the network said."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgnet_mini.reporting.page.choice import (
    Confusion,
    confident_hits,
    confident_mistakes,
    hardest,
    worst_confusions,
)
from imgnet_mini.reporting.page.thumbnails import make_thumbnails
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.console import escape_line

PAIRS = 12
MISTAKES = 24
HITS = 24
HARDEST = 8


@dataclass(frozen=True)
class Answer:
    """A class and the probability that the network gave it."""

    name: str
    probability: float
    is_true: bool


@dataclass(frozen=True)
class Example:
    """One image; thumbnail: a data URI, None where the file can no longer be read.

    answers: the likeliest classes, best first.
    """

    file: str
    thumbnail: str | None
    true: str
    answers: tuple[Answer, ...]

    @property
    def said(self) -> Answer:
        """The likeliest class."""
        return self.answers[0]

    @property
    def has_true(self) -> bool:
        """Whether the true class is among the likeliest ones."""
        return any(answer.is_true for answer in self.answers)


@dataclass(frozen=True)
class Pair:
    """Images of one class taken for another: an example, and one of the other class."""

    true: str
    predicted: str
    count: int
    images: int
    mistaken: Example
    other: Example | None


@dataclass(frozen=True)
class Gallery:
    """All images of a page; missing: how many of its `shown` files can no longer be read."""

    pairs: tuple[Pair, ...]
    mistakes: tuple[Example, ...]
    hits: tuple[Example, ...]
    hardest: tuple[Example, ...]
    shown: int
    missing: int


def build_gallery(
    predictions: Predictions,
    counts: NDArray[np.int64],
    names: Sequence[str],
    val_dir: Path,
    read_image: Callable[[Path], Image.Image],
) -> Gallery:
    """Choose the images, and make a thumbnail of each that can be read.

    counts: (C, C), a row per true class; names: human name per class; read_image: decodes a file
    to RGB, or raises a DataError.
    """
    confusions = worst_confusions(predictions, counts, PAIRS)
    mistakes = confident_mistakes(predictions, MISTAKES)
    hits = confident_hits(predictions, HITS)
    hard = hardest(predictions, HARDEST, leave_out=mistakes)
    positions = [*mistakes, *hits, *hard, *_of_pairs(confusions)]
    files = {predictions.images[position] for position in positions}
    thumbnails = make_thumbnails(files, val_dir, read_image)

    def shot(position: int) -> Example:
        return _shot(predictions, names, position, thumbnails)

    return Gallery(
        pairs=tuple(
            Pair(
                true=names[one.true],
                predicted=names[one.predicted],
                count=one.count,
                images=one.images,
                mistaken=shot(one.mistaken),
                other=None if one.other is None else shot(one.other),
            )
            for one in confusions
        ),
        mistakes=tuple(map(shot, mistakes)),
        hits=tuple(map(shot, hits)),
        hardest=tuple(map(shot, hard)),
        shown=len(files),
        missing=len(files) - len(thumbnails),
    )


def _of_pairs(confusions: Iterable[Confusion]) -> Iterable[int]:
    for one in confusions:
        yield one.mistaken
        if one.other is not None:
            yield one.other


def _shot(
    predictions: Predictions, names: Sequence[str], position: int, thumbnails: dict[str, str]
) -> Example:
    image, target = predictions.images[position], int(predictions.targets[position])
    top, probabilities = predictions.top[position], predictions.probabilities[position]
    return Example(
        file=escape_line(image),
        thumbnail=thumbnails.get(image),
        true=names[target],
        answers=tuple(
            Answer(names[label], float(probability), label == target)
            for label, probability in zip(top.tolist(), probabilities, strict=True)
        ),
    )
