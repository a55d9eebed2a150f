"""Several runs on one page."""

from collections.abc import Collection, Sequence

from imgnet_mini.reporting.page.chart import Chart, Series
from imgnet_mini.reporting.page.epoch_charts import epoch_chart, points
from imgnet_mini.reporting.page.render import render_page
from imgnet_mini.reporting.readme.comparison import Comparison
from imgnet_mini.reporting.readme.markdown import rate
from imgnet_mini.reporting.readme.run_view import RunView
from imgnet_mini.runs.records import Phase, select_phase

GENERATOR = '<meta name="generator" content="imgnet-mini compare">'
"""By this line a page is known as one of ours."""

_COLOURS = 10


def build_comparison_page(
    runs: Sequence[RunView], comparison: Comparison, reported: Collection[str]
) -> str:
    """The HTML; its legends are read at first where the first of the runs has ended.

    reported: names of the runs that have a page of their own, in the folder beside.
    """
    return render_page(
        "compare.html.j2",
        comparison=comparison,
        reported=reported,
        charts=[
            _chart("Validation top-1, %", runs, "val", "top1"),
            _chart("Validation top-5, %", runs, "val", "top5"),
            _chart("Validation loss", runs, "val", "loss"),
            _chart("Training loss", runs, "train", "loss"),
            _chart("Learning rate", runs, "train", "lr"),
        ],
    )


def _chart(title: str, runs: Sequence[RunView], phase: Phase, field: str) -> Chart:
    series = [
        Series(
            run.name,
            f"s{place % _COLOURS}" + (" dashed" if place >= _COLOURS else ""),
            points(
                run.selection_records if phase == "val" else select_phase(run.records, phase), field
            ),
        )
        for place, run in enumerate(runs)
    ]
    last = min((one.points[-1][0] for one in series if one.points), default=None)
    print_lines = {"loss": _loss, "lr": rate}.get(field, _percent)
    return epoch_chart(
        title, series, print_lines=print_lines, start=last, from_zero=field != "loss"
    )


def _loss(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.2f}"
