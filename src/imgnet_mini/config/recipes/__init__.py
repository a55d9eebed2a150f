"""Recipes: TOML files of settings; the comment at the top of each states its purpose."""

import difflib
import re
from importlib.resources import files
from itertools import takewhile
from typing import Final

from imgnet_mini.errors import ConfigError

_SUFFIX: Final = ".toml"


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted."""
    names = [file.name for file in files(__name__).iterdir()]
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def recipe_text(name: str) -> str:
    """Return the text of a recipe file.

    Raises:
        ConfigError: there is no such recipe.
    """
    known = recipe_names()
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {similar[0]}?" if similar else ""
        raise ConfigError(
            f"there is no recipe {name!r}{meant}\nThere are: {', '.join(known)}. Pass your own "
            "settings file with --config FILE"
        )
    return files(__name__).joinpath(name + _SUFFIX).read_text("utf-8")


def recipe_purpose(name: str) -> str:
    """Return the purpose of a recipe: the first sentence of the comment at its top.

    Raises:
        ConfigError: there is no such recipe.
    """
    lines = recipe_text(name).splitlines()
    head = takewhile(lambda line: line.startswith("#"), lines)
    return re.split(r"(?<=\.)\s", " ".join(line.lstrip("# ") for line in head), maxsplit=1)[0]
