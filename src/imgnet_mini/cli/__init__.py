"""The command line. Commands are imported when called, so that `--help` is fast."""

from imgnet_mini.cli.entry import load_commands, main

__all__ = ["load_commands", "main"]
