"""Class weights of the loss: balanced, or from a file."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.console import escape_line, join_names
from imgnet_mini.utils.csv_file import read_table

_HEADER = ["class", "weight"]


class WeightedCrossEntropyLoss(nn.CrossEntropyLoss):
    """Cross-entropy with a weight for each class: the sum of w[y] x loss, divided by N.

    N is the number of images, not the sum of their weights by which `nn.CrossEntropyLoss` divides
    for index targets (but not for class probabilities). So the mean over micro-batches or ranks of
    equal size is the loss of the whole batch, and index targets give the loss of their one-hot
    vectors. A target of several classes, as of mixup, has the mean of their weighted losses. Label
    smoothing does not change the weight of an image: it spreads w[y] evenly over the classes.

    weight: (C,).
    """

    weight: Tensor

    def __init__(self, weight: Tensor, *, label_smoothing: float = 0.0) -> None:
        super().__init__(weight=weight, label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss: logits (N, C), targets (N,) int64 or (N, C) class probabilities."""
        smoothing = self.label_smoothing
        if targets.ndim == 1:
            losses = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
            return (self.weight[targets] * losses).mean()
        weighted = targets * self.weight
        smoothed = (1 - smoothing) * weighted + smoothing * weighted.mean(1, keepdim=True)
        return F.cross_entropy(logits, smoothed)  # divides by N


def resolve_class_weights(setting: str | None, images: ImageFolder) -> tuple[float, ...] | None:
    """Return the weight of each class, whose mean over the training images is 1; None without any.

    That scale keeps the loss, and so the learning rate, what they are without weights: of a file,
    only the ratios count. Balanced weights are scikit-learn's: images / (classes x images of the
    class).

    setting: `balanced`, or the path of a CSV or JSON file.

    Raises:
        ConfigError: the file cannot be read, lacks a class, or names an unknown one; a weight is
            not a number above 0.
    """
    if setting is None:
        return None
    counts = np.bincount(images.targets, minlength=len(images.classes))
    if setting == "balanced":
        return _scale(1 / counts, counts)
    try:
        weights = _read(Path(setting), images.classes)
        return _scale(np.array(weights), counts)
    except OSError as error:
        raise ConfigError(f"--class-weights {setting}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--class-weights {setting}: {error}") from error


def describe_class_weights(setting: str | None, weights: Sequence[float] | None) -> list[str]:
    """Return a line on the weights of a run, if it has any."""
    if setting is None or weights is None:
        return []
    source = "balanced" if setting == "balanced" else f"of {setting}"
    return [f"Class weights {source}: {min(weights):.3g} to {max(weights):.3g}"]


def _scale(weights: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Scale to a mean of 1 over the images, in the precision of the loss."""
    ratios = weights / weights.max()
    scaled = (ratios * (counts.sum() / (ratios @ counts))).astype(np.float32)
    if not (scaled > 0).all():
        raise ValueError(f"{weights.min():g} and {weights.max():g} are too far apart for float32")
    return tuple(scaled.tolist())


def _read(path: Path, classes: Sequence[str]) -> list[float]:
    """Return the weights of a file in the order of the classes."""
    found: dict[str, float] = {}
    for name, value in _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path):
        if name in found:
            raise ValueError(f"class {escape_line(name)} is there twice: leave one")
        found[name] = _check_weight(name, value)
    known = set(classes)
    for problem, names in (
        ("has no weight for", [name for name in classes if name not in found]),
        ("names what is no class of the training images:", [*found.keys() - known]),
    ):
        if names:
            raise ValueError(f"the file {problem} {join_names(sorted(names))}")
    return [found[name] for name in classes]


def _read_csv(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the rows of a CSV file of two columns; a header `class,weight` may come first."""
    for number, row in enumerate(read_table(path), 1):
        is_header = number == 1 and [cell.removeprefix("\ufeff") for cell in row] == _HEADER
        if is_header or not row:
            continue
        if len(row) != 2:
            raise ValueError(
                f"line {number} should be the folder name of a class, a comma and a weight"
            )
        yield row[0].removeprefix("\ufeff" if number == 1 else ""), row[1]


def _read_json(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the entries of a JSON object, also those that are there twice."""
    pairs = json.loads(path.read_bytes(), object_pairs_hook=list)
    is_object = isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs)
    if not is_object or not pairs:
        raise ValueError("should hold one JSON object, from the folder name of a class to a weight")
    yield from pairs


def _check_weight(name: str, value: object) -> float:
    try:
        is_number = isinstance(value, int | float | str) and not isinstance(value, bool)
        weight = float(value) if is_number else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        weight = math.nan
    if not 0 < weight < math.inf:
        shown = escape_line(str(value))
        raise ValueError(f"the weight of {escape_line(name)} should be a number above 0: {shown}")
    return weight
