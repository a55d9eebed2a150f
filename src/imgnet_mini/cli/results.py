"""Commands that evaluate a run and report its results."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import TRAINING_ONLY, Checkpoint, config_options
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
        typer.Option(
            "--tta/--no-tta", help="Average the outputs over the image and its horizontal flip."
        ),
    ] = False,
    ten_crop: Annotated[
        bool,
        typer.Option(
            "--ten-crop/--no-ten-crop",
            help="Average over ten crops: four corners and the center, each also flipped.",
        ),
    ] = False,
    config: RunConfig,
) -> None:
    """Measure loss, top-1 and top-5 accuracy on the validation images, in float32.

    Options default to the settings of the run.
    """
    from imgnet_mini.commands import evaluate
    from imgnet_mini.data.transforms import TestTimeAugmentation
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
    """Write an HTML report of a run: metrics, curves, classes, sample images, calibration.

    Evaluates the best checkpoint first if needed. Plots and tables are saved as files too.
    """
    from imgnet_mini.commands import report

    report.run(config)


@app.command(rich_help_panel="Workflow")
@config_options("run", leave_out=("data_root", "pack_dir", "name"))
def compare(
    *,
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Names of two or more runs.", show_default=False),
    ],
    config: RunConfig,
) -> None:
    """Compare runs: results, curves and differing settings, as a table and an HTML page."""
    from imgnet_mini.commands import compare

    compare.run(config, names)


@app.command(rich_help_panel="Workflow")
@config_options("run", leave_out=("name", "pack_dir"))
def readme(
    *,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a run; repeat to compare several.", show_default="r50_onecycle_amp"
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            metavar="results|experiment|FILE",
            help="Results section, whole README, or your own Jinja template.",
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
        bool,
        typer.Option(
            "--check", help="Check instead of writing: exit with 1 if the file is out of date."
        ),
    ] = False,
    config: RunConfig,
) -> None:
    """Write the results of a run into README.md, between two marker comments."""
    from imgnet_mini.commands import readme as readme_command

    readme_command.run(config, name or [], template, readme, check)
