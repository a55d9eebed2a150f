"""The command line. Commands are imported when called, so that `--help` is fast."""

from imgnet_mini.cli import training, results  # isort: skip; the order of --help
from imgnet_mini.cli.entry import app, main

__all__ = ["app", "main", "results", "training"]
