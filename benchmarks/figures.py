"""Shared by the benchmarks: CPU affinity, test images, and printing of results."""

import argparse
import csv
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_type_hints

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

NOISE, QUALITY = 14, 94  # make files of the weight of ImageNet's

Row = Mapping[str, str | float | None]
"""Column heading to value; None if not measured."""


def use_one_core() -> None:
    """Pin the process to one core, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of two classes: noise over color gradients, 470 x 400 pixels, 110 KB."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class_{number % 2}" / f"{number:05d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        corners = generator.integers(0, 256, (2, 2, 3)).astype(np.uint8)
        smooth = Image.fromarray(corners).resize((470, 400), Image.Resampling.BICUBIC)
        noise = generator.normal(0, NOISE, (400, 470, 1))
        pixels = (np.array(smooth) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=QUALITY)


def read_results(path: Path, kind: type[T]) -> list[T]:
    """Read the rows of a CSV file as dataclass objects; none if the file does not exist."""
    if not path.exists():
        return []
    types = get_type_hints(kind)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [kind(**{name: types[name](text) for name, text in line.items()}) for line in lines]


def add_result(path: Path, result: "DataclassInstance") -> None:
    """Append a row to a CSV file, created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(result)]
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(asdict(result))


def add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print the figures as JSON")
    group.add_argument("--markdown", action="store_true", help="print a table for a README")


def show(options: argparse.Namespace, rows: Sequence[Row], *, about: str, note: str) -> None:
    """Print rows that have the same headings.

    about: the measurement and the machine; printed to stderr, or inside Markdown and JSON.
    note: a sentence below the table; may be empty.
    """
    if options.json:
        print(json.dumps({"about": about, "note": note, "rows": list(rows)}, indent=2))
        return
    headings = list(rows[0])
    cells = [[_cell(value) for value in row.values()] for row in rows]
    if options.markdown:
        print(_markdown(headings, cells))
        print("\n" + "  \n".join(line for line in (note, about) if line))
        return
    print(about, file=sys.stderr)
    print(_plain(headings, cells))
    if note:
        print(note)


def describe_run(*packages: str) -> str:
    """Return machine, versions, date and command in one line, without missing packages.

    packages: names as pip knows them.
    """
    versions = []
    for package in ("torch", *packages):
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return (
        f"{_processor()} x {os.cpu_count()}, {platform.system()}, Python "
        f"{platform.python_version()}, {', '.join(versions)}; {date.today().isoformat()}; "
        f"`{command}`"
    )


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cell(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _plain(headings: list[str], cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in (headings, *cells)
    )


def _markdown(headings: list[str], cells: list[list[str]]) -> str:
    rule = [":--"] + ["--:"] * (len(headings) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *cells))
