"""The Markdown tables of `gpu.py`, made from its JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

COMPUTE = "compute alone"


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return tables of throughput, of peak memory, and of runs of recipes."""
    speed, recipes, about = results["speed"], results["recipes"], results["about"]
    parts = [_grid("images/s (of compute alone)", speed, _throughput(speed))]
    if any(row["peak_bytes"] for row in speed):
        parts.append(_grid("peak memory, GiB", speed, _memory))
    if recipes:
        lines = [["recipe", "seconds", "top-1, %"], [":--", "--:", "--:"]]
        lines += [
            [run["recipe"], _number(run["seconds"], 0), _number(run["top1"], 2)] for run in recipes
        ]
        parts.append(_table(lines))
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items() if value)
    driver = f", driver {about['driver']}" if about["driver"] else ""
    parts.append(
        f"{about['device']}{driver}, {about['cpus']} CPUs, {versions}; {about['date']}; "
        f"`{about['command']}`"
    )
    return "\n\n".join(parts)


def _grid(title: str, rows: Sequence[Mapping[str, Any]], cell: Any) -> str:
    columns = sorted({(row["precision"], row["batch_size"]) for row in rows})
    names = list(dict.fromkeys((row["case"], row["compile_mode"]) for row in rows))
    lines = [[title, *(f"{precision}, {batch}" for precision, batch in columns)]]
    lines.append([":--", *["--:"] * len(columns)])
    cells = {
        (row["case"], row["compile_mode"], row["precision"], row["batch_size"]): cell(row)
        for row in rows
    }
    for case, mode in names:
        line = [f"{case}, compiled ({mode})" if mode else case]
        lines.append([*line, *(cells.get((case, mode, *column), "") for column in columns)])
    return _table(lines)


def _throughput(rows: Sequence[Mapping[str, Any]]) -> Any:
    compute = {
        (row["precision"], row["batch_size"], row["compile_mode"]): row["images_per_second"]
        for row in rows
        if row["case"] == COMPUTE
    }

    def cell(row: Mapping[str, Any]) -> str:
        rate = row["images_per_second"]
        if rate is None:
            return str(row["note"])
        base = compute.get((row["precision"], row["batch_size"], row["compile_mode"]))
        return f"{rate:,.0f} ({rate / base:.2f})" if base else f"{rate:,.0f}"

    return cell


def _memory(row: Mapping[str, Any]) -> str:
    return f"{row['peak_bytes'] / 2**30:.2f}" if row["peak_bytes"] else ""


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
