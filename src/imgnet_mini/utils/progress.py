"""Progress bar on a terminal; nothing in a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """One bar: steps done of a total, and text behind them."""

    def __init__(self, progress: Progress, label: str, total: int, done: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, completed=done, figures="")

    def show(self, done: int, figures: str = "") -> None:
        """Update the bar."""
        self._progress.update(self._task, completed=done, figures=figures)


@contextmanager
def progress_bar(label: str, total: int, *, done: int = 0) -> Iterator[ProgressBar]:
    """Show a progress bar on standard error during the block, then clear it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress:
        yield ProgressBar(progress, label, total, done)
