"""Recipes: settings that belong together, each a TOML file here whose head says what it is for."""

import difflib
import re
from importlib.resources import files
from itertools import takewhile
from typing import Final

from imgnet_mini.errors import ConfigError

_SUFFIX: Final = ".toml"


def recipe_names() -> list[str]:
    """All recipes, in the order of the alphabet."""
    names = [file.name for file in files(__name__).iterdir()]
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def recipe_text(name: str) -> str:
    """The file of a recipe as it is.

    Raises:
        ConfigError: there is no such recipe.
    """
    known = recipe_names()
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {similar[0]}?" if similar else ""
        raise ConfigError(
            f"there is no recipe {name!r}{meant}\nThere are: {', '.join(known)}. A settings file "
            "of your own is given with --config FILE"
        )
    return files(__name__).joinpath(name + _SUFFIX).read_text("utf-8")


def recipe_purpose(name: str) -> str:
    """What a recipe is for: the first sentence of the comment at its head.

    Raises:
        ConfigError: there is no such recipe.
    """
    lines = recipe_text(name).splitlines()
    head = takewhile(lambda line: line.startswith("#"), lines)
    return re.split(r"(?<=\.)\s", " ".join(line.lstrip("# ") for line in head), maxsplit=1)[0]
