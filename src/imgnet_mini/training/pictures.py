"""Images for TensorBoard: predictions of a few validation images, and the confusion matrix."""

from contextlib import suppress
from functools import cached_property
from typing import Final

import numpy as np
from PIL import Image

from imgnet_mini.data.classes import display_names, human_names
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.images import ImageError, read_image
from imgnet_mini.reporting.confusion import confusion_figure, count_confusions
from imgnet_mini.reporting.gallery import Entry, draw_gallery, thumbnail
from imgnet_mini.reporting.style import to_png, to_png_quickly
from imgnet_mini.training.evaluation import TopKPredictions, to_predictions

_IMAGES: Final = 8
_MAX_CLASSES: Final = 5000
"""The confusion matrix of more would take over 200 MB."""


def is_shown(epoch: int, epochs: int) -> bool:
    """Return whether images are logged: after epochs 1, 2, 4, 8, and so on, and the last."""
    count = epoch + 1
    return count == epochs or count & (count - 1) == 0


class TrainingPictures:
    """Draws predictions of validation images, of the same few each time."""

    def __init__(self, val: ImageFolder) -> None:
        self._val = val

    def draw_samples(self, predictions: TopKPredictions) -> bytes | None:
        """Return a PNG of a few images with their predictions; None if none can be read."""
        named = to_predictions(predictions, self._val)
        names = human_names(self._val.classes)
        entries = []
        for index, image in self._thumbnails.items():
            target, predicted = named.targets[index], named.top[index, 0]
            entries.append(
                Entry(
                    image,
                    true=names[target],
                    predicted=names[predicted],
                    probability=named.probabilities[index, 0],
                    is_right=bool(target == predicted),
                )
            )
        return to_png_quickly(draw_gallery(entries)) if entries else None

    def draw_confusions(self, predictions: TopKPredictions) -> bytes | None:
        """Return a PNG of the confusion matrix; None for too many classes."""
        if len(self._val.classes) > _MAX_CLASSES:
            return None
        counts = count_confusions(to_predictions(predictions, self._val))
        return to_png(confusion_figure(counts, display_names(self._val.classes)))

    @cached_property
    def _thumbnails(self) -> dict[int, Image.Image]:
        """Thumbnails by position, evenly spread over the classes, without unreadable ones."""
        found: dict[int, Image.Image] = {}
        for index in np.linspace(0, len(self._val) - 1, min(_IMAGES, len(self._val))).astype(int):
            with suppress(ImageError):
                found[int(index)] = thumbnail(read_image(self._val.path(index)))
        return found
