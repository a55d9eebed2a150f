"""Texts of figures as they are drawn, and which of them overlap."""

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
def record_figures() -> Iterator[list[Figure]]:
    """Collect the figures that are saved inside the block."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def recording(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        figures.append(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", recording)
        yield figures


def texts_of(figure: Figure) -> list[str]:
    """Return the texts that are drawn, without ticks outside of their axis."""
    return [text for text, _ in _drawn(figure)]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Return pairs of texts whose boxes, as drawn, have pixels in common."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(_drawn(figure), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > _SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > _SLACK
    ]


def _drawn(figure: Figure) -> list[tuple[str, Bbox]]:
    found: dict[Text, Bbox] = {}
    draw = Text.draw

    def recording(text, renderer, *args, **kwargs):
        draw(text, renderer, *args, **kwargs)
        if text.get_visible() and text.get_text().strip():
            found[text] = text.get_window_extent(renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", recording)
        figure.draw(FigureCanvasAgg(figure).get_renderer())
    return [(text.get_text(), box) for text, box in found.items()]
