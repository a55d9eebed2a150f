"""Put finished runs side by side."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.folder import join_names
from imgnet_mini.errors import CheckpointError, ConfigError
from imgnet_mini.reporting.comparison_curves import draw_comparison
from imgnet_mini.reporting.page.comparison_page import GENERATOR, build_comparison_page
from imgnet_mini.reporting.readme.comparison import Comparison, compare_runs
from imgnet_mini.reporting.readme.run_view import read_run
from imgnet_mini.runs.paths import ComparisonPaths, RunPaths, check_inside
from imgnet_mini.runs.records import read_csv
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import print_lines, show_table

_SIDE_BY_SIDE = 4
"""Runs that a terminal has room for; more make another table."""


def run(config: RunConfig, names: Sequence[str]) -> None:
    """Print what distinguishes runs, and write it as a page and as curves.

    names: of two or more runs under the output folder; the same one twice counts once.

    Raises:
        ConfigError: a run is not there, there are less than two, or the place is taken.
        CheckpointError: a run has no validated epoch yet.
        DataError: a file of a run is damaged.
        WriteError: a file cannot be written.
    """
    output_dir = config.run.output_dir
    checked = [config.override({"run": {"name": name}}).run.name for name in dict.fromkeys(names)]
    if len(checked) < 2:
        raise ConfigError(
            f"a comparison needs two runs or more, and {checked[0]} is one; name another beside it"
        )
    _check_runs(output_dir, checked)
    paths = ComparisonPaths(output_dir, tuple(checked))
    _check_place(paths)
    runs = [read_run(RunPaths(output_dir, name), paths.folder) for name in checked]
    comparison = compare_runs(runs)
    _show(comparison)
    reported = {one.name for one in runs if RunPaths(output_dir, one.name).page.is_file()}
    # The page first: by it the folder is known as ours, should the rest fail.
    write_text(paths.page, build_comparison_page(runs, comparison, reported))
    draw_comparison(runs, paths.folder)
    print_lines(f"Wrote {paths.folder}; all of it on one page: {paths.page}")


def _check_runs(output_dir: Path, names: Sequence[str]) -> None:
    """Name every run that cannot be compared, and what would help."""
    paths = [RunPaths(output_dir, name) for name in names]
    missing = [one.name for one in paths if not (one.train_log.exists() or one.config.exists())]
    if missing:
        there = sorted(path.parent.name for path in (output_dir / "out").glob("*/train_log.csv"))
        raise ConfigError(
            f"there is no run {join_names(missing)} in {output_dir.absolute()}; there is "
            f"{join_names(there) or 'none yet'}. Name others, or another folder with --output-dir"
        )
    unfinished = [one for one in paths if not _is_validated(one)]
    if unfinished:
        place = "" if output_dir == Path() else f" --output-dir {shlex.quote(str(output_dir))}"
        raise CheckpointError(
            "\n".join(
                f"{one.name} has no validated epoch yet; go on with "
                f"`imgnet-mini resume --name {one.name}{place}`"
                for one in unfinished
            )
        )


def _is_validated(paths: RunPaths) -> bool:
    return paths.train_log.exists() and any(
        record.phase == "val" for record in read_csv(paths.train_log)
    )


def _check_place(paths: ComparisonPaths) -> None:
    """Refuse a folder that holds anything but an earlier comparison."""
    check_inside(paths.folder)
    if not paths.folder.exists():
        return
    try:
        is_ours = GENERATOR in paths.page.read_text("utf-8", errors="replace")
    except OSError:
        is_ours = paths.folder.is_dir() and not any(paths.folder.iterdir())
    if not is_ours:
        raise ConfigError(
            f"{paths.folder} was not written by `imgnet-mini compare`, so nothing in it is "
            "overwritten; move it away"
        )


def _show(comparison: Comparison) -> None:
    columns = [*comparison.results, *comparison.settings]
    for first in range(0, len(comparison.names), _SIDE_BY_SIDE):
        shown = slice(first, first + _SIDE_BY_SIDE)
        show_table(
            "Results, and settings that differ",
            ["", *comparison.names[shown]],
            [[column.title, *column.cells[shown]] for column in columns],
        )
