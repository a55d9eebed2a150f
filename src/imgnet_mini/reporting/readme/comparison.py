"""What distinguishes several runs: the settings that differ, and what came of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from imgnet_mini.reporting.readme.markdown import duration, fixed
from imgnet_mini.reporting.readme.run_view import RunView


@dataclass(frozen=True)
class Column:
    """One thing told of every run: a text for each; best: the places of the best of them."""

    title: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, for a README, a page and a terminal.

    settings: those whose values are not all the same.
    """

    names: tuple[str, ...]
    settings: tuple[Column, ...]
    results: tuple[Column, ...]


def compare_runs(runs: Sequence[RunView]) -> Comparison:
    """Put runs side by side, in their order."""
    top = max((run.best.top1 for run in runs if not math.isnan(run.best.top1)), default=None)
    highest = frozenset(place for place, run in enumerate(runs) if run.best.top1 == top)
    return Comparison(
        names=tuple(run.name for run in runs),
        settings=tuple(
            Column(setting, tuple(values[run.name] for run in runs))
            for setting, values in differing_settings(runs).items()
        ),
        results=(
            Column("Epochs", tuple(_epochs(run) for run in runs)),
            Column("Best top-1", tuple(f"{fixed(run.best.top1)} %" for run in runs), best=highest),
            Column("Best top-5", tuple(f"{fixed(run.best.top5)} %" for run in runs)),
            Column("At epoch", tuple(f"{run.best.epoch}" for run in runs)),
            Column("Final top-1", tuple(f"{fixed(run.final.top1)} %" for run in runs)),
            Column("Final loss", tuple(fixed(run.final.loss, 4) for run in runs)),
            Column("Training images/s", tuple(fixed(run.train_rate, 1) for run in runs)),
            Column("Time", tuple(duration(run.seconds) for run in runs)),
        ),
    )


def differing_settings(runs: Sequence[RunView]) -> dict[str, dict[str, str]]:
    """Setting to run to value, for the settings whose values are not all the same.

    The epochs are left out: they count as a result. The device and the precision are those used,
    because `auto` may mean another one elsewhere.
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


def _epochs(run: RunView) -> str:
    planned = run.config.schedule.epochs
    return f"{run.epochs}" if run.epochs == planned else f"{run.epochs} of {planned}"
