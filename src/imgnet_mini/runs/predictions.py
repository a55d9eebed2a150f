"""Predictions for each validation image: written by `evaluate`, read by `report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_line
from imgnet_mini.utils.csv_file import read_table, write_table

TOP: Final = 5
"""Predictions kept per image; fewer if there are fewer classes."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of N images over the classes, best first.

    images: N paths relative to the validation folder.
    classes: folder names, in the order of the network's outputs.
    targets: (N,) int64, true class.
    top: (N, K) int64, the K likeliest classes.
    probabilities: (N, K) float64, of `top`.
    """

    images: list[str]
    classes: tuple[str, ...]
    targets: NDArray[np.int64]
    top: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write a CSV with class names: image, true, pred1, prob1, pred2, ...

        Raises:
            WriteError: the file cannot be written.
        """
        header = ["image", "true"]
        for rank in range(1, self.top.shape[1] + 1):
            header += [f"pred{rank}", f"prob{rank}"]
        rows = []
        for image, target, top, probabilities in zip(
            self.images, self.targets, self.top, self.probabilities, strict=True
        ):
            row = [image, self.classes[target]]
            for label, probability in zip(top, probabilities, strict=True):
                row += [self.classes[label], f"{probability:.6f}"]
            rows.append(row)
        write_table(path, header, rows)


def balanced_top1(targets: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the mean recall of the classes that have images, in percent: both (N,)."""
    images = np.bincount(targets)
    hits = np.bincount(targets[predicted == targets], minlength=len(images))
    return float(100 * (hits[images > 0] / images[images > 0]).mean())


def load_predictions(path: Path, classes: tuple[str, ...]) -> Predictions:
    """Read what `Predictions.save` wrote; `classes` in the order of the network's outputs.

    Raises:
        DataError: the file is missing, malformed, or names an unknown class.
    """
    indices = {name: index for index, name in enumerate(classes)}
    images: list[str] = []
    rows: dict[str, list[Any]] = {"targets": [], "top": [], "probabilities": []}
    try:
        table = read_table(path)
        next(table)
        for image, target, *rest in table:
            if Path(image).is_absolute() or ".." in Path(image).parts:
                raise ValueError(f"{escape_line(image)} lies outside the validation folder")
            images.append(image)
            rows["targets"].append(indices[target])
            rows["top"].append([indices[name] for name in rest[::2]])
            rows["probabilities"].append([float(text) for text in rest[1::2]])
        predictions = Predictions(
            images,
            classes,
            np.array(rows["targets"], np.int64),
            np.array(rows["top"], np.int64),
            np.array(rows["probabilities"], np.float64),
        )
        if predictions.top.shape != predictions.probabilities.shape:
            raise ValueError("a class without a probability")
    except OSError as error:
        raise DataError(f"cannot read the predictions {path}: {error.strerror}") from error
    except (KeyError, ValueError, StopIteration) as error:
        raise DataError(
            f"{path} is not a table of predictions for these classes ({error}); "
            "run `imgnet-mini evaluate` again"
        ) from error
    return predictions
