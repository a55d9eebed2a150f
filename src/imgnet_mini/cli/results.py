"""Commands that evaluate, report and use a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import IMAGES, TRAINING_ONLY, Checkpoint, config_options
from imgnet_mini.cli.values import parse_integer
from imgnet_mini.config.run_config import RunConfig, run_flags
from imgnet_mini.utils.console import print_lines


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

    Options default to the settings of the run, or of the checkpoint file.
    """
    from imgnet_mini.commands import evaluate
    from imgnet_mini.data.transforms import TestTimeAugmentation
    from imgnet_mini.distributed.process_group import init_distributed

    views = TestTimeAugmentation.HFLIP if tta else TestTimeAugmentation.CENTER_CROP
    if ten_crop:
        views = TestTimeAugmentation.TEN_CROP
    with init_distributed(config.runtime) as distributed:
        paths = evaluate.run(config, checkpoint=checkpoint, views=views, distributed=distributed)
    run = config.run.model_copy(update={"name": paths.name})
    print_lines(f"Next: imgnet-mini report{run_flags(run)}")


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data", "runtime"),
    leave_out=(*TRAINING_ONLY, "fit", "img_size", "eval_size", "dist_timeout"),
    show_defaults=False,
)
def report(*, config: RunConfig) -> None:
    """Write an HTML report of a run: metrics, curves, classes, sample images, calibration.

    Evaluates the best checkpoint first if needed. Plots and tables are saved as files too.
    """
    from imgnet_mini.commands import report

    report.run(config)


@app.command(rich_help_panel="Workflow")
@config_options("run", leave_out=("data_root", "pack_dir", "name", "track"))
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
@config_options("run", leave_out=("name", "pack_dir", "track"))
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
        str | None,
        typer.Option(
            metavar="INTEGER",
            help="Number of classes to print per image (at least 1).",
            show_default="5, or all",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write each image with a heat map of what speaks for its most likely class.",
        ),
    ] = None,
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
        top_k=None if top_k is None else parse_integer("--top-k", top_k, at_least=1),
        form="json" if as_json else "csv" if as_csv else "text",
        explain=explain,
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
            metavar="pt2|torchscript|onnx|safetensors|state-dict|hub|space",
            help="File format; hub: a folder for the Hugging Face Hub, which timm loads too; "
            "space: a folder with a web page that classifies images.",
            show_default="by the ending of --output, or pt2",
        ),
    ] = None,
    inputs: Annotated[
        str,
        typer.Option(
            metavar="float32|uint8",
            help="Input of the graph: normalized images of the model's size, or RGB images of any "
            "size as they are (onnx and pt2), with softmax.",
        ),
    ] = "float32",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File to write, or folder for hub and space.",
            show_default="in exports/<name>/",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="REPOSITORY",
            help="Upload the folder of --format hub to this repository, such as name/model.",
            show_default="nothing is uploaded",
            rich_help_panel="Hugging Face Hub",
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Make a new repository private.",
            rich_help_panel="Hugging Face Hub",
        ),
    ] = False,
    license_id: Annotated[
        str,
        typer.Option(
            "--license",
            metavar="ID",
            help="License of the weights for the model card, such as mit.",
            rich_help_panel="Hugging Face Hub",
        ),
    ] = "unknown",
    config: RunConfig,
) -> None:
    """Export the model for other programs, and check that the file gives the same outputs.

    Classes and normalization are stored in the file, if the format allows it, and in FILE.json.
    """
    from imgnet_mini.commands import export
    from imgnet_mini.export.options import HubOptions

    export.run(
        config,
        checkpoint=checkpoint,
        form=form,
        inputs=inputs,
        output=output,
        overwrite=overwrite,
        hub=HubOptions(push, private, license_id),
    )
