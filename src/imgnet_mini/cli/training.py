"""Commands that prepare data, train, and show recipes."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import TRAINING_ONLY, AllowWorldSizeChange, config_options
from imgnet_mini.config.recipes import recipe_names, recipe_purpose, recipe_text
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.utils.console import ignore_closed_stdout, show_table, write_stdout


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "prepare", "data"),
    leave_out=(*TRAINING_ONLY, "name", "output_dir", "batch_size", "workers", "loader"),
    recipes=True,
)
def prepare(*, config: RunConfig) -> None:
    """Decode and resize all images once, into a pack that training reads fast.

    Checks every image. An up-to-date pack is kept; an interrupted build is continued.
    """
    from imgnet_mini.commands import prepare

    with ignore_closed_stdout():
        prepare.run(config)


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data"),
    leave_out=(
        *TRAINING_ONLY,
        *("name", "output_dir", "pack_dir", "batch_size", "img_size", "eval_size", "workers"),
        *("loader", "skip_bad", "fit"),
    ),
    recipes=True,
)
def check(*, config: RunConfig) -> None:
    """Decode every image, and list all problems that would stop or degrade training.

    Exits with 4 if a problem would stop training.
    """
    from imgnet_mini.commands import check

    check.run(config)


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data", "model", "optimizer", "schedule", "finder", "runtime"),
    leave_out=("max_lr", "hours", "track"),
    recipes=True,
)
def find_lr(*, config: RunConfig) -> None:
    """Suggest a peak learning rate by a range test and short trial trainings."""
    from imgnet_mini.commands import find_lr
    from imgnet_mini.distributed.process_group import init_distributed

    with init_distributed(config.runtime) as distributed:
        find_lr.run(config, distributed=distributed)


@app.command(rich_help_panel="Workflow")
@config_options(
    *("run", "data", "model", "optimizer", "schedule", "checkpoint", "runtime"), recipes=True
)
def train(
    *,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run if it has a checkpoint, else start it.")
    ] = False,
    allow_world_size_change: AllowWorldSizeChange = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run of this name.")
    ] = False,
    reports: Annotated[
        bool, typer.Option("--reports", help="Write the report after training.")
    ] = False,
    config: RunConfig,
) -> None:
    """Train a network from scratch."""
    from imgnet_mini.checkpoint.manifest import has_steps
    from imgnet_mini.commands import resume as resume_command
    from imgnet_mini.commands import train
    from imgnet_mini.distributed.process_group import init_distributed

    if resume and overwrite:
        raise typer.BadParameter("choose one of --resume and --overwrite")
    with ignore_closed_stdout(), init_distributed(config.runtime) as distributed:
        if resume and distributed.broadcast_from_rank0(lambda: has_steps(config.run.paths())):
            resume_command.run(
                config, allow_world_size_change=allow_world_size_change, distributed=distributed
            )
        else:
            train.run(config, overwrite=overwrite, distributed=distributed)
    if reports and distributed.is_main_process:
        from imgnet_mini.commands import report

        with ignore_closed_stdout():
            report.run(config)


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
            metavar="FILE", help="Checkpoint to resume from.", show_default="the latest intact one"
        ),
    ] = None,
    replan: Annotated[
        bool, typer.Option("--replan", help="Resume with a new schedule, such as more --epochs.")
    ] = False,
    allow_world_size_change: AllowWorldSizeChange = False,
    allow_image_changes: Annotated[
        bool,
        typer.Option(
            "--allow-image-changes",
            help="Resume although images of the run were removed or changed.",
        ),
    ] = False,
    config: RunConfig,
) -> None:
    """Resume an interrupted run; results are bit-identical to an uninterrupted run.

    Options default to the settings of the run. Settings that would change its results are refused.
    """
    from imgnet_mini.commands import resume
    from imgnet_mini.distributed.process_group import init_distributed

    with ignore_closed_stdout(), init_distributed(config.runtime) as distributed:
        resume.run(
            config,
            checkpoint=checkpoint,
            replan=replan,
            allow_world_size_change=allow_world_size_change,
            allow_image_changes=allow_image_changes,
            skip_bad=bool(config.explicit().get("data", {}).get("skip_bad")),
            distributed=distributed,
        )


recipe = typer.Typer(
    no_args_is_help=True,
    help="Show the recipes: sets of settings, for train --recipe NAME.",
)
app.add_typer(recipe, name="recipe", rich_help_panel="Workflow")


@recipe.command("list")
def list_recipes() -> None:
    """List the recipes and their purposes."""
    show_table(
        "Recipes, for --recipe NAME",
        ["recipe", "purpose"],
        [[name, recipe_purpose(name)] for name in recipe_names()],
    )


@recipe.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="|".join(recipe_names()),
            help="Recipe to print.",
            show_default=False,
            autocompletion=recipe_names,
        ),
    ],
) -> None:
    """Print a recipe as TOML, to save and edit for --config FILE."""
    write_stdout(recipe_text(name))
