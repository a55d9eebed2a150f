"""Commands that show recipes."""

from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.config.recipes import recipe_names, recipe_purpose, recipe_text
from imgnet_mini.utils.console import show_table, write_stdout

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
