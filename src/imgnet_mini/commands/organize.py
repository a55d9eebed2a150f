"""Bring a data set of another layout into train/ and val/ with one folder per class."""

import os
import shlex
from pathlib import Path
from typing import Any

from imgnet_mini.config.data_settings import HoldOut
from imgnet_mini.data.layout import is_split_folder
from imgnet_mini.data.organize.plan import FileMove, OrganizePlan, make_plan
from imgnet_mini.data.organize.transfer import (
    RECORD,
    How,
    Transfer,
    TransferRecord,
    read_finished,
    read_unfinished,
    recorded,
)
from imgnet_mini.errors import ConfigError, DataError
from imgnet_mini.utils.atomic_file import free_bytes
from imgnet_mini.utils.console import format_bytes, print_lines
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest


def run(
    source: Path, dest: Path, *, how: How | None, labels: Path | None, hold_out: HoldOut
) -> None:
    """Print the plan; with `how`, make its files, or continue to.

    Raises:
        ConfigError: a folder lies in the other one, or an unfinished transfer has other settings.
        DataError: the layout is not known, labels are wrong, or the destination holds other files.
        WriteError: a file cannot be written.
        StoppedError: a signal ended the command.
    """
    _check_folders(source, dest)
    settings = {"labels": None if labels is None else str(labels), **hold_out.model_dump()}
    unfinished = read_unfinished(dest)
    if unfinished is not None:
        _check_same(unfinished, source, dest, how, settings)
        plan = OrganizePlan(
            [FileMove(*pair) for pair in unfinished.files],
            [f"Continuing an interrupted --{unfinished.how} of {unfinished.source}"],
        )
    else:
        plan = _make_plan(source, dest, labels, hold_out)
    transfer = Transfer(source, dest, plan.files)
    print_lines(*plan.notes, *_describe(plan, transfer))
    if how is None:
        _suggest(transfer, labels, hold_out)
        return
    record = TransferRecord(
        source=str(source.resolve()),
        how=how,
        settings=settings,
        files=[[file.source, file.target] for file in plan.files],
    )
    transfer.check_space(how)
    with recorded(dest, record):
        kind = _transfer(transfer, how)
    print_lines(
        f"Made {len(transfer.remaining)} files ({kind}), listed in {dest / RECORD}",
        f"Next: imgnet-mini prepare --data-root {shlex.quote(str(dest))}",
    )


def _check_folders(source: Path, dest: Path) -> None:
    ours, theirs = source.resolve(), dest.resolve()
    if theirs.is_relative_to(ours):
        raise ConfigError(
            f"{dest} lies in {source}: name a new folder beside it; --move and --link take no "
            "further disk space"
        )
    if ours.is_relative_to(theirs) and is_split_folder(theirs / ours.relative_to(theirs).parts[0]):
        raise ConfigError(f"{source} lies in a split of {dest}: name a new folder")


def _check_same(
    record: TransferRecord, source: Path, dest: Path, how: How | None, settings: dict[str, Any]
) -> None:
    """Check that an interrupted transfer is continued as it was begun."""
    before = [record.source, record.how, *record.settings.values()]
    now = [str(source.resolve()), how or record.how, *settings.values()]
    if before != now:
        labels = record.settings.get("labels")
        hold_out = HoldOut.model_validate(
            {name: record.settings.get(name, 0) for name in HoldOut.model_fields}
        )
        raise ConfigError(
            f"{dest} holds an unfinished transfer with other settings: continue it with\n"
            f"  imgnet-mini organize {shlex.join([record.source, str(dest)])} --{record.how}"
            f"{_flags(None if labels is None else Path(str(labels)), hold_out)}"
        )


def _make_plan(source: Path, dest: Path, labels: Path | None, hold_out: HoldOut) -> OrganizePlan:
    try:
        return make_plan(source, labels, hold_out)
    except DataError as error:
        finished = read_finished(dest)
        if finished is not None and finished.how == "move":
            error.add_note(f"The images of {finished.source} were moved to {dest} before.")
        raise


def _describe(plan: OrganizePlan, transfer: Transfer) -> list[str]:
    done = len(plan.files) - len(transfer.remaining)
    lines = [
        f"{transfer.dest / split}: {images} images of {classes} classes"
        for split, (classes, images) in plan.counts().items()
    ]
    example = plan.files[-1]
    lines += [f"  such as {transfer.source / example.source} as {transfer.dest / example.target}"]
    return [*lines, *([f"{done} of {len(plan.files)} files are there already"] if done else [])]


def _suggest(transfer: Transfer, labels: Path | None, hold_out: HoldOut) -> None:
    """Print the commands that carry out the plan."""
    command = shlex.join(["imgnet-mini", "organize", str(transfer.source), str(transfer.dest)])
    needed, free = transfer.needed_bytes("copy"), free_bytes(transfer.dest)
    print_lines(
        "Nothing is changed yet. To carry it out, run one of:",
        *(f"  {command}{_flags(labels, hold_out)} --{how}" for how in ("link", "copy", "move")),
        f"A copy takes {format_bytes(needed)}, and {format_bytes(free)} are free; links and moves "
        "take no space on the same disk",
    )


def _flags(labels: Path | None, hold_out: HoldOut) -> str:
    given = "" if labels is None else f" --labels {shlex.quote(os.fspath(labels))}"
    return given + hold_out.flags


def _transfer(transfer: Transfer, how: How) -> str:
    total, done = len(transfer.remaining), 0

    def message(signal_name: str) -> str:
        return (
            f"stopped by {signal_name} after {done} of {total} files; run the same command to "
            "continue"
        )

    with StopRequest(message) as stop, progress_bar(how, total) as bar:

        def on_file(count: int) -> None:
            nonlocal done
            done = count
            bar.show(count)
            stop.check()

        return transfer.run(how, on_file)
