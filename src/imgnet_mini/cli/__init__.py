"""The command line: arguments in, one call out. Commands are imported late: help is quick."""

from imgnet_mini.cli import learning, recipes, results, use  # help shows them in this order
from imgnet_mini.cli.entry import app, main

__all__ = ["app", "learning", "main", "recipes", "results", "use"]
