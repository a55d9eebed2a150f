"""Images of the validation set for TensorBoard, drawn during training."""

from functools import cached_property, partial
from typing import Final

import numpy as np
from PIL import Image

from imgnet_mini.config.data_settings import DEFAULT_DECODING, Decoding
from imgnet_mini.data.classes import display_names, human_names
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.images import read_image
from imgnet_mini.reporting.confusion import confusion_figure, count_confusions
from imgnet_mini.reporting.examples import choose_spread, make_example, read_thumbnails
from imgnet_mini.reporting.gallery import TENSORBOARD, draw_gallery
from imgnet_mini.reporting.style import to_png, to_png_fast
from imgnet_mini.training.evaluation import TopKPredictions, to_predictions

_IMAGES: Final = 8
_MAX_CLASSES: Final = 5000
"""Of a confusion matrix, which takes 200 MB; running out of memory would end the run."""


class TrainingPictures:
    """Draws predictions for the validation images; always for the same few."""

    def __init__(self, val: ImageFolder, decoding: Decoding = DEFAULT_DECODING) -> None:
        self._val = val
        self._read_image = partial(read_image, decoding=decoding)

    def draw_samples(self, predictions: TopKPredictions) -> bytes | None:
        """Return a PNG of a few images with their top-1 predictions; None if none is readable."""
        named = to_predictions(predictions, self._val)
        names = human_names(self._val.classes)
        examples = [
            make_example(named, index, names, self._thumbnails)
            for index in self._indices
            if named.images[index] in self._thumbnails
        ]
        return to_png_fast(draw_gallery(examples, TENSORBOARD)) if examples else None

    def draw_confusions(self, predictions: TopKPredictions) -> bytes | None:
        """Return a PNG of the confusion matrix; None if there are too many classes."""
        if len(self._val.classes) > _MAX_CLASSES:
            return None
        counts = count_confusions(to_predictions(predictions, self._val))
        return to_png(confusion_figure(counts, display_names(self._val.classes)))

    @cached_property
    def _indices(self) -> list[int]:
        count = min(_IMAGES, len(self._val))
        return sorted(choose_spread(np.arange(len(self._val)), self._val.targets, count))

    @cached_property
    def _thumbnails(self) -> dict[str, Image.Image]:
        files = [self._val.relative_path(index) for index in self._indices]
        return read_thumbnails(files, self._val.root, self._read_image, TENSORBOARD.side)
