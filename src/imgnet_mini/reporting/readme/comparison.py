"""What distinguishes several runs."""

from collections.abc import Sequence

from imgnet_mini.reporting.readme.run_view import RunView


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
