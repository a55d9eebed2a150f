"""The curve of a range test, with what was suggested."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from imgnet_mini.errors import DataError
from imgnet_mini.reporting.page.axes import Axis
from imgnet_mini.reporting.page.chart import Chart, Series, band, line_chart, mark
from imgnet_mini.reporting.readme.finder import Finder, Range, newest_result
from imgnet_mini.reporting.readme.markdown import rate
from imgnet_mini.utils.csv_file import read_table


def finder_chart(finder: Finder, folder: Path, name: str) -> Chart | None:
    """Loss against learning rate; None where the curve is no longer there.

    finder: what the newest result of the run `name` in `folder` says.

    Raises:
        DataError: the curve is damaged.
    """
    rows = _read_curve(folder, name)
    if len(rows) < 2:
        return None
    lrs, losses, smoothed = zip(*rows, strict=True)
    x = Axis.across([*lrs, finder.lr], is_log=True)
    y = Axis.up(_limits(losses, smoothed))
    nearest = min(lrs, key=lambda lr: abs(math.log(lr / finder.lr)))
    height = smoothed[lrs.index(nearest)]
    parts = {"flat": finder.flat, "falling": finder.falling, "diverging": finder.diverging}
    return line_chart(
        "Learning-rate finder",
        [
            Series("loss of a step", "faint", list(zip(lrs, losses, strict=True))),
            Series("smoothed", "train", list(zip(lrs, smoothed, strict=True))),
        ],
        x=x,
        y=y,
        x_label="learning rate",
        say_x=lambda lr: ", ".join([f"at {rate(lr)}", *_parts(lr, nearest, parts)]),
        say_y=lambda loss: f"{loss:.3f}",
        start=nearest,
        boxes=[band(part, *span, x) for part, span in parts.items() if span],
        marks=mark("train", finder.lr, height, x=x, y=y),
    )


def _parts(lr: float, suggested: float, parts: dict[str, Range | None]) -> list[str]:
    """What there is to say of a rate: the part of the curve that it is in, and the suggestion."""
    names = [name for name, span in parts.items() if span and span[0] <= lr <= span[1]]
    return [*names[:1], *(["suggested"] if lr == suggested else [])]


def _read_curve(folder: Path, name: str) -> list[tuple[float, float, float]]:
    """Rate, loss and smoothed loss of each step; a name that leads elsewhere is not followed."""
    result = newest_result(folder, name)
    file = Path((result and result.text("curve")) or "").name
    path = folder / file
    if not file or not path.is_file():
        return []
    try:
        rows = [(float(lr), float(loss), float(mean)) for lr, loss, mean in [*read_table(path)][1:]]
        if not all(0 < lr < math.inf for lr, _, _ in rows):
            raise ValueError("a learning rate is not above 0")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a curve of find-lr ({error}); remove it") from error
    return rows


def _limits(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Room for the fall and one and a half times as much above; what explodes leaves the top."""
    finite = [loss for loss in smoothed if math.isfinite(loss)] or [0.0]
    first = median(losses[: max(5, len(losses) // 10)])
    low = min(finite)
    return low, min(max(finite), first + max(1.5 * (first - low), 0.1 * abs(first)))
