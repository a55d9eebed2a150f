"""The texts of pictures that are being drawn, and which of them get in each other's way."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_SLACK = 1.0  # pixels that two boxes may share: glyphs do not fill theirs


@contextmanager
def noting_figures() -> Iterator[list[Figure]]:
    """All figures that are saved in the block, once it has ended."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def noting(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        figures.append(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", noting)
        yield figures


def texts_of(figure: Figure) -> list[str]:
    """Those that are drawn: a tick that lies outside its axis is none of them."""
    return [text for text, _ in _drawn(figure)]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes, as drawn, have pixels in common."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(_drawn(figure), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > _SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > _SLACK
    ]


def _drawn(figure: Figure) -> list[tuple[str, Bbox]]:
    found: dict[Text, Bbox] = {}
    draw = Text.draw

    def noting(text, renderer, *args, **kwargs):
        draw(text, renderer, *args, **kwargs)
        if text.get_visible() and text.get_text().strip():
            found[text] = text.get_window_extent(renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noting)
        figure.draw(FigureCanvasAgg(figure).get_renderer())
    return [(text.get_text(), box) for text, box in found.items()]
