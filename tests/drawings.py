"""The texts of pictures that are being drawn, and which of them get in each other's way."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

_SLACK = 1.0  # pixels that two boxes may share: glyphs do not fill theirs


@contextmanager
def noting_figures() -> Iterator[list[Figure]]:
    """All figures that are saved in the block."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def noting(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        figures.append(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", noting)
        yield figures


def texts_of(figure: Figure) -> list[Text]:
    """Those that are seen."""
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes, as drawn, have pixels in common."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts_of(figure)]
    boxes = [(text, box) for text, box in boxes if box.width > 0]
    return [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > _SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > _SLACK
    ]
