"""Compare runs, on the terminal, as a page and as curves."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import CheckpointError, ConfigError
from imgnet_mini.reporting.comparison import Comparison, compare_runs
from imgnet_mini.reporting.curves import draw_comparison
from imgnet_mini.reporting.page.pages import GENERATOR, build_comparison_page
from imgnet_mini.reporting.paired import PairedTest, compare_with_first
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.runs.paths import ComparisonPaths, RunPaths, check_inside, describe_runs
from imgnet_mini.runs.records import read_csv
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import join_names, print_lines, show_table

_RUNS_PER_TABLE = 4
"""More runs than a terminal has room for are shown in several tables."""


def run(config: RunConfig, names: Sequence[str]) -> None:
    """Print settings that differ and results, and write them as a page and as curves.

    Where runs are evaluated, the difference of their top-1 is tested image by image.

    names: two or more runs in the output folder; duplicates count once.

    Raises:
        ConfigError: a run does not exist, there are fewer than two, or the folder of the
            comparison holds other files.
        CheckpointError: a run has no validated epoch yet.
        DataError: a file of a run is damaged.
        WriteError: a file cannot be written.
    """
    output_dir = config.run.output_dir
    checked = [config.override({"run": {"name": name}}).run.name for name in dict.fromkeys(names)]
    if len(checked) < 2:
        raise ConfigError(f"a comparison needs two or more runs; got only {checked[0]}")
    _check_runs(output_dir, checked)
    paths = ComparisonPaths(output_dir, tuple(checked))
    _check_folder(paths)
    runs = [read_run(RunPaths(output_dir, name), paths.folder) for name in checked]
    comparison = compare_runs(runs)
    test = compare_with_first([RunPaths(output_dir, name) for name in checked])
    _show(comparison)
    _show_test(test)
    reported = {run.name for run in runs if RunPaths(output_dir, run.name).page.is_file()}
    # The page first: it identifies the folder as a comparison, should the rest fail.
    write_text(paths.page, build_comparison_page(runs, comparison, test, reported))
    draw_comparison(runs, paths.folder)
    print_lines(f"Wrote {paths.folder}; everything on one page: {paths.page}")


def _check_runs(output_dir: Path, names: Sequence[str]) -> None:
    """Raise an error that names every run that cannot be compared, and the cure."""
    paths = [RunPaths(output_dir, name) for name in names]
    missing = [p.name for p in paths if not (p.train_log.exists() or p.config.exists())]
    if missing:
        raise ConfigError(
            f"there is no run {join_names(missing)}. {describe_runs(output_dir)}. Give other "
            "names, or another folder with --output-dir"
        )
    unfinished = [p.name for p in paths if not _is_validated(p)]
    if unfinished:
        folder = "" if output_dir == Path() else f" --output-dir {shlex.quote(str(output_dir))}"
        commands = (f"  imgnet-mini resume --name {name}{folder}" for name in unfinished)
        raise CheckpointError(
            "\n".join(
                [f"no validated epoch yet: {join_names(unfinished)}; continue with", *commands]
            )
        )


def _is_validated(paths: RunPaths) -> bool:
    return paths.train_log.exists() and any(
        record.phase == "val" for record in read_csv(paths.train_log)
    )


def _check_folder(paths: ComparisonPaths) -> None:
    """Raise an error if the folder holds anything but an earlier comparison."""
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
    for first in range(0, len(comparison.names), _RUNS_PER_TABLE):
        shown = slice(first, first + _RUNS_PER_TABLE)
        show_table(
            "Results, and settings that differ",
            ["", *comparison.names[shown]],
            [[column.title, *column.cells[shown]] for column in columns],
        )


def _show_test(test: PairedTest) -> None:
    if test.rows:
        show_table(
            f"Top-1 on the same {test.images} images",
            ["", "top-1", "balanced", f"minus {test.rows[0].name}", "95 % interval", ""],
            [
                [row.name, row.top1, row.balanced, row.difference, row.interval, row.verdict]
                for row in test.rows
            ],
        )
        print_lines("The interval is that of the images; another seed changes top-1 too.")
    print_lines(*test.notes)
