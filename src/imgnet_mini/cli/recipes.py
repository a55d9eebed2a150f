"""The commands that show the recipes."""

from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.config.recipes import recipe_names, recipe_purpose, recipe_text
from imgnet_mini.utils.console import show_table, write_stdout

recipe = typer.Typer(
    no_args_is_help=True,
    help="Show the recipes: settings that belong together, for train --recipe NAME.",
)
app.add_typer(recipe, name="recipe", rich_help_panel="Workflow")


@recipe.command("list")
def list_recipes() -> None:
    """Say which recipes there are, and what each is for."""
    show_table(
        "Recipes, for --recipe NAME",
        ["recipe", "what it is for"],
        [[name, recipe_purpose(name)] for name in recipe_names()],
    )


@recipe.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="|".join(recipe_names()),
            help="The recipe to print.",
            show_default=False,
            autocompletion=recipe_names,
        ),
    ],
) -> None:
    """Print a recipe's file: the start of one of your own, for --config FILE."""
    write_stdout(recipe_text(name))
