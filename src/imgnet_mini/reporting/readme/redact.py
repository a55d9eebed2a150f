"""Paths and commands without what tells whose machine they come from."""

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any


def last_component(path: str) -> str:
    """The file's or folder's own name, for paths of either kind of system.

    `~` for the home folder, whose own name is its user's.
    """
    path = path.rstrip("\\/")
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() fails where there is none
    return "~" if path == home.rstrip("\\/") else re.split(r"[\\/]+", path)[-1] or "."


def command_line(words: Sequence[str]) -> str:
    """A command to paste, its paths that lead out of the current folder cut to their last part."""
    program = last_component(words[0]).removesuffix(".exe")
    start = ["python", "-m", "imgnet_mini"] if program == "__main__.py" else [program]
    return shlex.join(start + [_shorten(word) for word in words[1:]])


def recorded_command(command: Any) -> str | None:
    """The same for a command in a JSON file: its words, or one text; None where it is neither."""
    try:
        words = _split(command) if isinstance(command, str) else list(map(str, command or []))
    except (TypeError, ValueError):  # not a list; quotes that do not match
        return None
    return command_line(words) if words else None


def _split(text: str) -> list[str]:
    """Split like a shell, but keep backslashes: they separate folders on Windows."""
    reader = shlex.shlex(text, posix=True, punctuation_chars=False)
    reader.whitespace_split = True
    reader.commenters = ""
    reader.escape = ""
    return list(reader)


def _shorten(word: str) -> str:
    """Cut what leads out of the current folder, also after `--option=`."""
    option = re.match(r"[\w-]+=", word)
    value = word[option.end() :] if option else word
    leads_out = re.match(r"[/\\~]|[A-Za-z]:|\.\.[/\\]|file:", value)
    return (option[0] if option else "") + (last_component(value) if leads_out else value)
