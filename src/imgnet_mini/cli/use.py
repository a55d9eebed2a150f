"""The commands that use a network, and those to try things."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import config_options
from imgnet_mini.cli.shared import IMAGES, TRAINING_ONLY, Checkpoint
from imgnet_mini.config.run_config import RunConfig


@app.command(rich_help_panel="Use it")
@config_options(
    *("run", "data", "model", "runtime"), leave_out=(*TRAINING_ONLY, *IMAGES), show_defaults=False
)
def predict(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE_OR_FOLDER",
            help="Image files, and folders that are searched for images.",
            show_default=False,
        ),
    ],
    *,
    checkpoint: Checkpoint = "best",
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Classes to name of each image.", show_default="5, or all"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    config: RunConfig,
) -> None:
    """Say what images show: the likeliest classes, with their probabilities.

    Needs the checkpoint and nothing else. Exits with 1 where an image could not be read.
    """
    from imgnet_mini.commands import predict

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    predict.run(
        config,
        places,
        checkpoint=checkpoint,
        top_k=top_k,
        form="json" if as_json else "csv" if as_csv else "text",
    )


@app.command(rich_help_panel="Use it")
@config_options(
    *("run", "data", "model"),
    leave_out=(*TRAINING_ONLY, *(name for name in IMAGES if name != "data_root"), "batch_size"),
    show_defaults=False,
)
def export(
    *,
    checkpoint: Checkpoint = "best",
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="pt2|torchscript|onnx|safetensors|state-dict",
            help="Kind of file.",
            show_default="by the ending of --output, or pt2",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.", show_default="in exports/<name>/"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    config: RunConfig,
) -> None:
    """Write the network as a file that other programs run, and check that it says the same.

    Classes and normalisation go inside, where the format has a place, and beside as FILE.json.
    """
    from imgnet_mini.commands import export

    export.run(config, checkpoint=checkpoint, form=form, output=output, overwrite=overwrite)


@app.command(rich_help_panel="Try it")
@config_options(
    *("run", "data", "model", "optimizer", "runtime"),
    leave_out=("name", "output_dir", "sync_bn", "dist_timeout"),
    recipes=True,
)
def bench(
    *,
    seconds: Annotated[
        float, typer.Option(min=1, help="About how long to measure.", rich_help_panel="Bench")
    ] = 60,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel="Bench")
    ] = False,
    config: RunConfig,
) -> None:
    """Say in a minute what limits the speed of training here, and try what would lift it."""
    from imgnet_mini.commands import bench

    bench.run(config, seconds=seconds, as_json=as_json)


@app.command(rich_help_panel="Try it")
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder to make; it must not exist or be empty.")
    ] = Path("imgnet-mini-demo"),
    device: Annotated[
        str, typer.Option(metavar="auto|cuda|mps|cpu", help="Where the network runs.")
    ] = "auto",
) -> None:
    """Run the whole workflow on handwritten digits: two to three minutes on two slow cores."""
    from imgnet_mini.commands import demo

    demo.run(directory, device=device)
