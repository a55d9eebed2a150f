"""The commands that measure a run and show it."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import config_options
from imgnet_mini.cli.shared import TRAINING_ONLY, Checkpoint
from imgnet_mini.config.run_config import RunConfig


@app.command(rich_help_panel="Workflow")
@config_options(
    "run",
    "data",
    "model",
    "runtime",
    leave_out=TRAINING_ONLY,
    show_defaults=False,
)
def evaluate(
    *,
    checkpoint: Checkpoint = "best",
    tta: Annotated[
        bool,
        typer.Option("--tta/--no-tta", help="Use the mean over the image and its mirror image."),
    ] = False,
    ten_crop: Annotated[
        bool,
        typer.Option(
            "--ten-crop/--no-ten-crop",
            help="Use the mean over corners, centre and their mirror images.",
        ),
    ] = False,
    config: RunConfig,
) -> None:
    """Measure loss, top-1 and top-5 over all validation images, in float32.

    Options left out keep the values the run of this name was trained with.
    """
    from imgnet_mini.commands import evaluate
    from imgnet_mini.data.tta import TestTimeAugmentation
    from imgnet_mini.distributed.process_group import init_distributed

    views = (
        TestTimeAugmentation.TEN_CROP
        if ten_crop
        else TestTimeAugmentation.HFLIP
        if tta
        else TestTimeAugmentation.CENTER_CROP
    )

    with init_distributed(
        config.runtime.device, timeout=config.runtime.dist_timeout
    ) as distributed:
        evaluate.run(config, checkpoint=checkpoint, views=views, distributed=distributed)


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data", "runtime"),
    leave_out=(*TRAINING_ONLY, "img_size", "eval_size", "dist_timeout"),
    show_defaults=False,
)
def report(*, config: RunConfig) -> None:
    """Show a run on one page: numbers, curves, classes, images, calibration; pictures and tables.

    Evaluates the best checkpoint first where that has not been done.
    """
    from imgnet_mini.commands import report

    report.run(config)


@app.command(rich_help_panel="Workflow")
@config_options("run", leave_out=("data_root", "pack_dir", "name"))
def compare(
    *,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Two runs or more.", show_default=False)
    ],
    config: RunConfig,
) -> None:
    """Put runs side by side: settings that differ, results, curves, as a table and as a page."""
    from imgnet_mini.commands import compare

    compare.run(config, names)


@app.command(rich_help_panel="Workflow")
@config_options("run", leave_out=("name", "pack_dir"))
def readme(
    *,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a run; several make a comparison.", show_default="r50_onecycle_amp"
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            metavar="results|experiment|FILE",
            help="What to write: a block, a whole README, or your own Jinja template.",
        ),
    ] = "results",
    readme: Annotated[
        Path | None,
        typer.Option(
            "--readme",
            metavar="FILE",
            help="File to write.",
            show_default="README.md in the output folder",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if the file is out of date.")
    ] = False,
    config: RunConfig,
) -> None:
    """Show a run's results in README.md, between two marker comments."""
    from imgnet_mini.commands import readme as readme_command

    readme_command.run(config, name or [], template, readme, check)
