"""Paths and commands without what identifies the machine and its user."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence


def last_component(path: str) -> str:
    """Return the last component of a POSIX or Windows path; `~` for the home folder."""
    path = path.rstrip("\\/")
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() fails where there is none
    return "~" if path == home.rstrip("\\/") else re.split(r"[\\/]+", path)[-1] or "."


def redact_command(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a command with paths outside the current folder cut to their last part.

    words: the program first; none for no command.
    """
    if not words:
        return ()
    program = last_component(words[0]).removesuffix(".exe")
    start = ["python", "-m", "imgnet_mini"] if program == "__main__.py" else [program]
    return (*start, *map(_redact_word, words[1:]))


def join_command(words: Iterable[str]) -> str | None:
    """Return the words quoted for a shell; None if there are none."""
    return shlex.join(words) or None


def _redact_word(word: str) -> str:
    """Cut a path that leads out of the current folder, also after `--option=`."""
    option = re.match(r"[\w-]+=", word)
    value = word[option.end() :] if option else word
    leads_out = re.match(r"[/\\~]|[A-Za-z]:|\.\.[/\\]|file:", value)
    return (option[0] if option else "") + (last_component(value) if leads_out else value)
