"""Several runs side by side: the settings that differ, and the results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from imgnet_mini.reporting.format import format_duration, format_fixed
from imgnet_mini.reporting.run_view import RunView


@dataclass(frozen=True)
class Column:
    """One setting or result of every run, as text; best: indices of the best runs."""

    title: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, for a README, a page and a terminal.

    settings: those whose values differ.
    """

    names: tuple[str, ...]
    settings: tuple[Column, ...]
    results: tuple[Column, ...]


def compare_runs(runs: Sequence[RunView]) -> Comparison:
    """Return the runs side by side, in their order."""
    top = max((run.best.top1 for run in runs if not math.isnan(run.best.top1)), default=None)
    best = frozenset(index for index, run in enumerate(runs) if run.best.top1 == top)
    return Comparison(
        names=tuple(run.name for run in runs),
        settings=tuple(
            Column(setting, tuple(values[run.name] for run in runs))
            for setting, values in differing_settings(runs).items()
        ),
        results=(
            Column("Epochs", tuple(map(_format_epochs, runs))),
            Column("Best top-1", tuple(f"{format_fixed(r.best.top1)} %" for r in runs), best=best),
            Column("Best top-5", tuple(f"{format_fixed(run.best.top5)} %" for run in runs)),
            Column("At epoch", tuple(f"{run.best.epoch}" for run in runs)),
            Column("Final top-1", tuple(f"{format_fixed(run.final.top1)} %" for run in runs)),
            Column("Final loss", tuple(format_fixed(run.final.loss, 4) for run in runs)),
            Column("Training images/s", tuple(format_fixed(run.train_rate, 1) for run in runs)),
            Column("Time", tuple(format_duration(run.seconds) for run in runs)),
        ),
    )


def differing_settings(runs: Sequence[RunView]) -> dict[str, dict[str, str]]:
    """Return setting to run to value, for the settings whose values differ.

    Epochs are left out, as they are among the results. Device and precision are the ones in use,
    because `auto` may resolve differently elsewhere.
    """
    tables = {
        run.name: {
            **run.settings,
            "runtime.device": run.environment.device or run.config.runtime.device,
            "runtime.precision": run.environment.precision or run.config.runtime.precision,
        }
        for run in runs
    }
    rows = {
        setting: {name: table[setting] for name, table in tables.items()}
        for setting in runs[0].settings
    }
    return {
        setting.rpartition(".")[2]: row
        for setting, row in rows.items()
        if len(set(row.values())) > 1 and setting != "schedule.epochs"
    }


def _format_epochs(run: RunView) -> str:
    planned = run.config.schedule.epochs
    return f"{run.epochs}" if run.epochs == planned else f"{run.epochs} of {planned}"
