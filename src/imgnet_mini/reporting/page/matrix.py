"""The confusion matrix as a small picture for light and dark pages."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MOST_CELLS = 250
"""Along one side; of more classes, neighbours share a cell, which shows the highest share."""

_COLOUR = (217, 95, 2)
_FAINTEST = 70
"""How opaque, of 255, the least share above 0 is: a single error must be seen."""


def matrix_picture(counts: NDArray[np.int64]) -> str:
    """A PNG as data URI, a pixel a cell, on nothing; colour is the share of the row's images.

    counts: (C, C), a row per true class.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    block = -(-len(shares) // _MOST_CELLS)
    side = -(-len(shares) // block)
    padded = np.zeros((side * block, side * block))
    padded[: len(shares), : len(shares)] = shares
    cells = padded.reshape(side, block, side, block).max((1, 3))
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = _COLOUR
    pixels[..., 3] = np.where(cells > 0, _FAINTEST + (255 - _FAINTEST) * cells, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
