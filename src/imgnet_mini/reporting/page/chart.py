"""Charts as places and texts; a template draws them, a script reads their values out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imgnet_mini.reporting.page.axes import BOTTOM, TOP, Axis, Tick
from imgnet_mini.reporting.readme.markdown import NOTHING

_MARKED_POINTS = 30
"""Up to so many places, each point is a dot too."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line of values; style: classes of the style sheet."""

    label: str
    style: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Line:
    """A drawn line: the data of an SVG path, and the places of its dots."""

    style: str
    path: str
    dots: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Box:
    """A drawn rectangle."""

    style: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Mark:
    """A point that is pointed out."""

    style: str
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """What the legend says where the pointer is: of each entry a text and, drawn, a height."""

    x: float
    at: str
    values: tuple[str, ...]
    heights: tuple[float | None, ...]


@dataclass(frozen=True)
class Chart:
    """All that is drawn of one chart.

    legend: label and style of each entry; start: the reading that is shown at first.
    """

    title: str
    x_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    legend: Sequence[tuple[str, str]]
    readings: Sequence[Reading]
    start: int
    lines: Sequence[Line] = ()
    boxes: Sequence[Box] = ()
    marks: Sequence[Mark] = ()

    @property
    def data(self) -> list[list[object]]:
        """The readings for the script."""
        return [[r.x, r.at, r.values, r.heights] for r in self.readings]

    @property
    def summary(self) -> str:
        """The chart in words: what it shows at first."""
        first = self.readings[self.start]
        pairs = zip(self.legend, first.values, strict=True)
        return f"{self.title}; {first.at}: " + ", ".join(f"{key[0]} {text}" for key, text in pairs)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    x_label: str,
    say_x: Callable[[float], str],
    say_y: Callable[[float], str],
    start: float | None = None,
    whole: bool = False,
    boxes: Sequence[Box] = (),
    marks: Sequence[Mark] = (),
) -> Chart:
    """Lines over a common axis; a value that is not finite leaves a gap.

    series: at least one of them with a point; start: where the legend is read at first, the last
    place if not given; whole: the axis counts.
    """
    places = sorted({point[0] for one in series for point in one.points})
    is_dotted = len(places) <= _MARKED_POINTS
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=x.ticks(whole=whole),
        y_ticks=y.ticks(),
        legend=[(one.label, one.style) for one in series],
        readings=_readings(places, series, x=x, y=y, say_x=say_x, say_y=say_y),
        start=len(places) - 1 if start is None else places.index(start),
        lines=[_line(one, x, y, is_dotted=is_dotted) for one in series],
        boxes=boxes,
        marks=marks,
    )


def band(style: str, low: float, high: float, x: Axis) -> Box:
    """A part of the axis, shaded from top to bottom."""
    left = x.place(low)
    return Box(style, left, TOP, round(x.place(high) - left, 1), BOTTOM - TOP)


def mark(style: str, across: float, up: float, *, x: Axis, y: Axis) -> list[Mark]:
    """A point to point out; none where it is not finite."""
    return [Mark(style, x.place(across), y.place(up))] if math.isfinite(up) else []


def _line(series: Series, x: Axis, y: Axis, *, is_dotted: bool) -> Line:
    path, dots, is_open = "", [], False
    for across, up in series.points:
        if not math.isfinite(up):
            is_open = False
            continue
        dots.append((x.place(across), y.place(up)))
        path += f"{'L' if is_open else 'M'}{dots[-1][0]:g} {dots[-1][1]:g}"
        is_open = True
    return Line(series.style, path, tuple(dots) if is_dotted else ())


def _readings(
    places: Sequence[float],
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    say_x: Callable[[float], str],
    say_y: Callable[[float], str],
) -> list[Reading]:
    tables = [dict(one.points) for one in series]
    readings = []
    for place in places:
        found = [table.get(place) for table in tables]
        finite = [v if v is not None and math.isfinite(v) else None for v in found]
        readings.append(
            Reading(
                x=x.place(place),
                at=say_x(place),
                values=tuple(NOTHING if v is None else say_y(v) for v in finite),
                heights=tuple(None if v is None else y.place(v) for v in finite),
            )
        )
    return readings
