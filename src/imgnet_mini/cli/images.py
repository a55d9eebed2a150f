"""Commands that get images and bring them into the layout of training."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import config_options
from imgnet_mini.config.data_settings import HoldOut
from imgnet_mini.config.run_config import RunConfig, fields_of


@app.command(rich_help_panel="Images")
def download(
    handle: Annotated[
        str,
        typer.Argument(
            metavar="imagenet-mini|KAGGLE_HANDLE", help="Data set: OWNER/NAME, or its address."
        ),
    ] = "imagenet-mini",
    *,
    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Folder for the images.", show_default="data/ and its name"
        ),
    ] = None,
) -> None:
    """Download a data set from Kaggle, such as ImageNet-Mini.

    An interrupted download continues when the command is run again.
    """
    from imgnet_mini.commands import download

    download.run(handle, data_root)


@app.command(rich_help_panel="Images")
@config_options("data", leave_out=fields_of("data").keys() - HoldOut.model_fields.keys())
def organize(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of images.", show_default=False)
    ],
    dest: Annotated[
        Path,
        typer.Argument(metavar="DEST", help="New folder for train/ and val/.", show_default=False),
    ],
    *,
    link: Annotated[
        bool,
        typer.Option("--link", help="Link the files: hard links, or symbolic ones across disks."),
    ] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files.")] = False,
    move: Annotated[bool, typer.Option("--move", help="Relocate the files.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan only (the default)."),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Classes of the images: CSV of files and labels, or ImageNet's ground truth.",
        ),
    ] = None,
    config: RunConfig,
) -> None:
    """Sort images of other layouts into train/ and val/ with one folder per class.

    Prints the plan first. No file is replaced; an interrupted command can be run again.
    """
    from imgnet_mini.commands import organize

    chosen = [name for name, is_on in (("link", link), ("copy", copy), ("move", move)) if is_on]
    if len(chosen) > 1:
        raise typer.BadParameter(f"choose one of --{' and --'.join(chosen)}")
    organize.run(
        source,
        dest,
        how=None if dry_run or not chosen else chosen[0],  # type: ignore[arg-type]
        labels=labels,
        hold_out=config.data.hold_out,
    )
