"""Charts as coordinates and texts: chart.html.j2 draws them, page.js shows their values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imgnet_mini.reporting.format import UNKNOWN
from imgnet_mini.reporting.page.axes import BOTTOM, TOP, Axis, Tick

_MAX_DOTS = 30
"""Up to this many x values, each point is marked with a dot."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line of (x, y) values; style: classes of the style sheet."""

    label: str
    style: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Line:
    """A drawn line: the data of an SVG path, and the coordinates of its dots."""

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
class Marker:
    """A highlighted point."""

    style: str
    x: float
    y: float


@dataclass(frozen=True)
class Readout:
    """Values of the legend at one x: for each entry a text and, if drawn, a y coordinate."""

    x: float
    label: str
    values: tuple[str, ...]
    heights: tuple[float | None, ...]


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn of one chart.

    legend: label and style of each entry; start: index of the readout that is shown initially.
    """

    title: str
    x_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    legend: Sequence[tuple[str, str]]
    readouts: Sequence[Readout]
    start: int
    lines: Sequence[Line] = ()
    boxes: Sequence[Box] = ()
    markers: Sequence[Marker] = ()

    @property
    def data(self) -> list[list[object]]:
        """The readouts, as page.js reads them."""
        return [[r.x, r.label, r.values, r.heights] for r in self.readouts]

    @property
    def summary(self) -> str:
        """The title and the initial readout, for screen readers."""
        first = self.readouts[self.start]
        pairs = zip(self.legend, first.values, strict=True)
        return f"{self.title}; {first.label}: " + ", ".join(
            f"{key[0]} {text}" for key, text in pairs
        )


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    x_label: str,
    format_x: Callable[[float], str],
    format_y: Callable[[float], str],
    start: float | None = None,
    whole: bool = False,
    boxes: Sequence[Box] = (),
    markers: Sequence[Marker] = (),
) -> Chart:
    """Return lines over a common axis; a value that is not finite leaves a gap.

    series: at least one of them with a point; start: the x that the legend shows initially, by
    default the last; whole: integer ticks.
    """
    places = sorted({point[0] for entry in series for point in entry.points})
    is_dotted = len(places) <= _MAX_DOTS
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=x.ticks(whole=whole),
        y_ticks=y.ticks(),
        legend=[(entry.label, entry.style) for entry in series],
        readouts=_readouts(places, series, x=x, y=y, format_x=format_x, format_y=format_y),
        start=len(places) - 1 if start is None else places.index(start),
        lines=[_line(entry, x, y, is_dotted=is_dotted) for entry in series],
        boxes=boxes,
        markers=markers,
    )


def band(style: str, low: float, high: float, x: Axis) -> Box:
    """Return a shaded range of the x axis, from top to bottom."""
    left = x.place(low)
    return Box(style, left, TOP, round(x.place(high) - left, 1), BOTTOM - TOP)


def marker(style: str, across: float, up: float, *, x: Axis, y: Axis) -> list[Marker]:
    """Return a highlighted point; none if it is not finite."""
    return [Marker(style, x.place(across), y.place(up))] if math.isfinite(up) else []


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


def _readouts(
    places: Sequence[float],
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    format_x: Callable[[float], str],
    format_y: Callable[[float], str],
) -> list[Readout]:
    tables = [dict(entry.points) for entry in series]
    readouts = []
    for place in places:
        found = [table.get(place) for table in tables]
        finite = [v if v is not None and math.isfinite(v) else None for v in found]
        readouts.append(
            Readout(
                x=x.place(place),
                label=format_x(place),
                values=tuple(UNKNOWN if v is None else format_y(v) for v in finite),
                heights=tuple(None if v is None else y.place(v) for v in finite),
            )
        )
    return readouts
