"""What a run shows of its validation images on the way, in TensorBoard."""

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
_MOST_CLASSES: Final = 5000
"""Of a confusion matrix: its square of numbers takes 200 MB, and no run may end for want of it."""


def is_shown(epoch: int, epochs: int) -> bool:
    """Whether there are pictures after an epoch: the 1st, 2nd, 4th, 8th and so on, and the last."""
    count = epoch + 1
    return count == epochs or count & (count - 1) == 0


class TrainingPictures:
    """Draws what a network answers of the validation images; always of the same few."""

    def __init__(self, val: ImageFolder) -> None:
        self._val = val

    def draw_samples(self, answers: TopKPredictions) -> bytes | None:
        """A PNG of a few images with the likeliest class of each; None where none can be read."""
        predictions = to_predictions(answers, self._val)
        names = human_names(self._val.classes)
        entries = []
        for index, image in self._thumbnails.items():
            target, predicted = predictions.targets[index], predictions.top[index, 0]
            entries.append(
                Entry(
                    image,
                    true=names[target],
                    predicted=names[predicted],
                    probability=predictions.probabilities[index, 0],
                    is_right=bool(target == predicted),
                )
            )
        return to_png_quickly(draw_gallery(entries)) if entries else None

    def draw_confusions(self, answers: TopKPredictions) -> bytes | None:
        """A PNG of which class was taken for which; None where there are too many classes."""
        if len(self._val.classes) > _MOST_CLASSES:
            return None
        counts = count_confusions(to_predictions(answers, self._val))
        return to_png(confusion_figure(counts, display_names(self._val.classes)))

    @cached_property
    def _thumbnails(self) -> dict[int, Image.Image]:
        """By position, from all over the classes; what cannot be read is the loader's matter."""
        found: dict[int, Image.Image] = {}
        for index in np.linspace(0, len(self._val) - 1, min(_IMAGES, len(self._val))).astype(int):
            with suppress(ImageError):
                found[int(index)] = thumbnail(read_image(self._val.path(index)))
        return found
