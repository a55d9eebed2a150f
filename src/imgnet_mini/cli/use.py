"""Commands that use a trained model, and commands to try things out."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import IMAGES, TRAINING_ONLY, Checkpoint, config_options
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
            help="Image files, or folders to search for images.",
            show_default=False,
        ),
    ],
    *,
    checkpoint: Checkpoint = "best",
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Number of classes to print per image.", show_default="5, or all"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    config: RunConfig,
) -> None:
    """Predict the most likely classes of images, with probabilities.

    Requires only the checkpoint. Exits with 1 if an image cannot be read.
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
            help="File format.",
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
    """Export the model for other programs, and check that the file gives the same outputs.

    Classes and normalization are stored in the file, if the format allows it, and in FILE.json.
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
        float,
        typer.Option(
            min=1,
            help="Approximate duration of the measurement in seconds.",
            rich_help_panel="Bench",
        ),
    ] = 60,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel="Bench")
    ] = False,
    config: RunConfig,
) -> None:
    """Find the bottleneck of training on this machine, and try settings that remove it."""
    from imgnet_mini.commands import bench

    bench.run(config, seconds=seconds, as_json=as_json)


@app.command(rich_help_panel="Try it")
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder to create; must be empty if it exists.")
    ] = Path("imgnet-mini-demo"),
    device: Annotated[
        str, typer.Option(metavar="auto|cuda|mps|cpu", help="Device to run on.")
    ] = "auto",
) -> None:
    """Run the whole workflow on handwritten digits: 2 to 3 minutes on two slow CPU cores."""
    from imgnet_mini.commands import demo

    demo.run(directory, device=device)
