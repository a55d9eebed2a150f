"""Names and short help of all commands: `--help` shows them without importing the settings."""

from typing import Final

import typer

COMMANDS: Final = {
    "Images": {
        "download": "Download a data set from Kaggle, such as ImageNet-Mini.",
        "organize": "Sort images of other layouts into train/ and val/ with one folder per class.",
    },
    "Workflow": {
        "prepare": "Decode and resize all images once, into a pack that training reads fast.",
        "check": "Decode every image, and list all problems that would stop or degrade training.",
        "find-lr": "Suggest a peak learning rate by a range test and short trial trainings.",
        "train": "Train a network from scratch.",
        "resume": "Resume an interrupted run; results are bit-identical to an uninterrupted run.",
        "evaluate": "Measure loss, top-1 and top-5 accuracy on the validation images, in float32.",
        "report": "Write an HTML report of a run: metrics, curves, classes, sample images, "
        "calibration.",
        "compare": "Compare runs: results, curves and differing settings, as a table and an HTML "
        "page.",
        "readme": "Write the results of a run into README.md, between two marker comments.",
        "recipe": "Show the recipes: sets of settings, for train --recipe NAME.",
    },
    "Use it": {
        "predict": "Predict the most likely classes of images, with probabilities.",
        "export": "Export the model for other programs, and check that the file gives the same "
        "outputs.",
    },
    "Try it": {
        "bench": "Find the bottleneck of training on this machine, and try settings that remove "
        "it.",
        "demo": "Run the whole workflow on handwritten digits: 1 to 2 minutes on two slow CPU "
        "cores.",
    },
}
"""By panel; a test compares them with the commands themselves."""


def add_commands(app: typer.Typer) -> None:
    """Add commands that do nothing but appear in the help."""
    for panel, commands in COMMANDS.items():
        for name, text in commands.items():
            app.command(name, help=text, rich_help_panel=panel)(_do_nothing)


def _do_nothing() -> None:
    """Stand in for a command."""
