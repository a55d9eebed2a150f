"""The command line: arguments in, one call out. Commands are imported late: help is quick."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini import __version__
from imgnet_mini.config import RunConfig
from imgnet_mini.console import going_on_unheard, say, show_error, show_stop
from imgnet_mini.errors import ConfigError, ImgnetMiniError, RankError, StoppedError, WriteError
from imgnet_mini.launch import Launch, speaks
from imgnet_mini.options import config_options
from imgnet_mini.signals import StopNowError, stopping_at_once

TRAINING_ONLY = (
    *("min_crop", "flip", "use_class_style_aug", "pack_on_device", "accumulate"),
    *("amp", "precision", "compile", "sync_bn", "deterministic", "seed"),
)
"""Settings of the data and runtime sections that evaluation has no use for."""

WITH_RANKS = ("find-lr", "train", "resume", "evaluate")
"""Commands that torchrun may start."""

IMAGES = ("data_root", "pack_dir", "workers", "loader", "skip_bad", "allow_missing_val_classes")
"""Settings that say which images a run has, and how they are read."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train ResNet-50 from scratch on ImageNet-Mini, or any folder of images, on one GPU.",
)


def main(args: list[str] | None = None, *, is_process: bool = False) -> None:
    """Run the command line; the package's own errors end as a message and an exit code.

    is_process: whether the process ends with it.
    """
    # Torch's large tensors then live in large pages of memory, which the system hands out faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        with stopping_at_once(for_good=is_process), _naming_files() if speaks() else _silence():
            app(args, prog_name="imgnet-mini")
    except StopNowError as error:
        if speaks():
            show_stop(f"stopped at once by {error}; what had been saved is whole")
        raise SystemExit(128 + error.signal_number) from error
    except StoppedError as error:
        if speaks():
            show_stop(str(error))
        raise SystemExit(error.exit_code) from error
    except ImgnetMiniError as error:
        if speaks() or isinstance(error, RankError):
            show_error("\n".join([str(error), *getattr(error, "__notes__", [])]))
        raise SystemExit(error.exit_code) from error


@contextmanager
def _naming_files() -> Iterator[None]:
    """The last resort for a file or folder that cannot be used, and that nobody has explained."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise WriteError(f"cannot use {error.filename}: {error.strerror or error}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Only one of several processes prints: what is said inside this is not."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def _show_version(asked: bool) -> None:
    if asked:
        say(f"imgnet-mini {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version
    launch = Launch.from_environment()
    if launch.size > 1 and ctx.invoked_subcommand not in WITH_RANKS:
        raise ConfigError(
            f"{ctx.invoked_subcommand} is work for one process, and torchrun has started "
            f"{launch.size}: call imgnet-mini {ctx.invoked_subcommand} by itself"
        )


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "prepare", "data"),
    leave_out=(*TRAINING_ONLY, "name", "output_dir", "batch_size", "workers", "loader"),
)
def prepare(*, given: RunConfig) -> None:
    """Decode and resize all images once, so that training never waits for them.

    Checks every image on the way. A pack that is up to date stays; a stopped build goes on.
    """
    from imgnet_mini.commands import prepare

    with going_on_unheard():
        prepare.run(given)


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data"),
    leave_out=(
        *TRAINING_ONLY,
        *("name", "output_dir", "pack_dir", "batch_size", "img_size", "workers", "loader"),
        "skip_bad",
    ),
)
def check(*, given: RunConfig) -> None:
    """Decode every image, and list all that would stop or spoil a training.

    Exits with 4 where something would stop it.
    """
    from imgnet_mini.commands import check

    check.run(given)


@app.command(rich_help_panel="Workflow")
@config_options("run", "data", "model", "optimizer", "finder", "runtime")
def find_lr(*, given: RunConfig) -> None:
    """Raise the learning rate step by step and suggest a peak for training."""
    from imgnet_mini.commands import find_lr
    from imgnet_mini.distributed.joining import joined

    with joined(given.runtime) as ranks:
        find_lr.run(given, ranks=ranks)


@app.command(rich_help_panel="Workflow")
@config_options("run", "data", "model", "optimizer", "schedule", "checkpoint", "runtime")
def train(
    *,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run if it has a checkpoint, else start.")
    ] = False,
    allow_world_size_change: Annotated[
        bool,
        typer.Option(
            "--allow-world-size-change",
            help="With --resume: go on with other processes: the same images, not the same bits.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run of this name.")
    ] = False,
    reports: Annotated[
        bool, typer.Option("--reports", help="Make the report when training is done.")
    ] = False,
    given: RunConfig,
) -> None:
    """Train a network from scratch."""
    from imgnet_mini.commands import resume as resume_command
    from imgnet_mini.commands import train
    from imgnet_mini.distributed.joining import joined

    if resume and overwrite:
        raise typer.BadParameter("choose one of --resume and --overwrite")
    with going_on_unheard(), joined(given.runtime) as ranks:
        if resume and ranks.from_first(lambda: resume_command.has_checkpoint(given)):
            resume_command.run(given, other_ranks=allow_world_size_change, ranks=ranks)
        else:
            train.run(given, overwrite=overwrite, ranks=ranks)
    if reports and ranks.is_first:
        from imgnet_mini.commands import report  # scikit-learn takes seconds to import

        with going_on_unheard():
            report.run(given)


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data", "model", "optimizer", "schedule", "checkpoint", "runtime"),
    show_defaults=False,
)
def resume(
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Go on from this one.", show_default="the newest that is whole"
        ),
    ] = None,
    replan: Annotated[
        bool, typer.Option("--replan", help="Go on under another schedule, such as more --epochs.")
    ] = False,
    allow_world_size_change: Annotated[
        bool,
        typer.Option(
            "--allow-world-size-change",
            help="Go on with another number of processes: the same images, not the same bits.",
        ),
    ] = False,
    given: RunConfig,
) -> None:
    """Continue an interrupted run, bit by bit as if it had never stopped.

    Options left out keep the run's own values; those that would make it another run are refused.
    """
    from imgnet_mini.commands import resume
    from imgnet_mini.distributed.joining import joined

    with going_on_unheard(), joined(given.runtime) as ranks:
        resume.run(
            given,
            checkpoint=checkpoint,
            replan=replan,
            other_ranks=allow_world_size_change,
            ranks=ranks,
        )


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
    checkpoint: Annotated[
        str, typer.Option(metavar="best|last|PATH", help="Which weights; also a plain state dict.")
    ] = "best",
    tta: Annotated[
        bool,
        typer.Option("--tta/--no-tta", help="Use the mean over the image and its mirror image."),
    ] = False,
    given: RunConfig,
) -> None:
    """Measure loss, top-1 and top-5 over all validation images, in float32.

    Options left out keep the values the run of this name was trained with.
    """
    from imgnet_mini.commands import evaluate
    from imgnet_mini.distributed.joining import joined

    with joined(given.runtime) as ranks:
        evaluate.run(given, checkpoint=checkpoint, tta=tta, ranks=ranks)


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
    checkpoint: Annotated[
        str, typer.Option(metavar="best|last|PATH", help="Which weights; also a plain state dict.")
    ] = "best",
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Classes to name of each image.", show_default="5, or all"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    given: RunConfig,
) -> None:
    """Say what images show: the likeliest classes, with their probabilities.

    Needs the checkpoint and nothing else. Exits with 1 where an image could not be read.
    """
    from imgnet_mini.commands import predict

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    predict.run(
        given,
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
    checkpoint: Annotated[
        str, typer.Option(metavar="best|last|PATH", help="Which weights; also a plain state dict.")
    ] = "best",
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
    given: RunConfig,
) -> None:
    """Write the network as a file that other programs run, and check that it says the same.

    Classes and normalisation go inside, where the format has a place, and beside as FILE.json.
    """
    from imgnet_mini.commands import export

    export.run(given, checkpoint=checkpoint, form=form, output=output, overwrite=overwrite)


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data", "runtime"),
    leave_out=(*TRAINING_ONLY, "img_size", "dist_timeout"),
    show_defaults=False,
)
def report(*, given: RunConfig) -> None:
    """Show a run on one page: numbers, curves, classes, images, calibration; pictures and tables.

    Evaluates the best checkpoint first where that has not been done.
    """
    from imgnet_mini.commands import report

    report.run(given)


@app.command(rich_help_panel="Workflow")
@config_options("run", leave_out=("data_root", "pack_dir", "name"))
def compare(
    *,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Two runs or more.", show_default=False)
    ],
    given: RunConfig,
) -> None:
    """Put runs side by side: settings that differ, results, curves, as a table and as a page."""
    from imgnet_mini.commands import compare

    compare.run(given, names)


@app.command(rich_help_panel="Try it")
@config_options(
    *("run", "data", "model", "optimizer", "runtime"),
    leave_out=("name", "output_dir", "sync_bn", "dist_timeout"),
)
def bench(
    *,
    seconds: Annotated[
        float, typer.Option(min=1, help="About how long to measure.", rich_help_panel="Bench")
    ] = 60,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel="Bench")
    ] = False,
    given: RunConfig,
) -> None:
    """Say in a minute what limits the speed of training here, and try what would lift it."""
    from imgnet_mini.commands import bench

    bench.run(given, seconds=seconds, as_json=as_json)


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
    given: RunConfig,
) -> None:
    """Show a run's results in README.md, between two marker comments."""
    from imgnet_mini.commands import readme as readme_command

    readme_command.run(given, name or [], template, readme, check)


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
