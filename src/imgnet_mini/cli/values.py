"""Typed values: from text to the value of a setting, with errors that name flag and value.

Typer is only given text: its versions differ in what they take for a number and in what they say.
"""

import re
import shlex
import types
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.console import escape_line

_INTEGER: Final = r"[+-]?\d+"
_NUMBER: Final = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)"


def metavar_of(annotation: Any) -> str:
    """Return the type as help shows it, such as `INTEGER` or `FLOAT|auto`."""
    names = {int: "INTEGER", float: "FLOAT", str: "TEXT"}
    return "|".join(
        name
        for member in _members(annotation)
        for name in (choices_of(member) or (names.get(member, "PATH"),))
    )


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Return the values of a Literal; none for another type."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def parse_setting(flag: str, text: str, field: FieldInfo) -> Any:
    """Return the value of a setting.

    Raises:
        ConfigError: the text is no such value, or out of bounds.
    """
    return _parse(flag, text, field.annotation, *field.metadata)


def parse_integer(flag: str, text: str, *, at_least: int) -> int:
    """Return a whole number.

    Raises:
        ConfigError: the text is none, or it is too small.
    """
    return int(_parse(flag, text, int, Ge(at_least)))


def parse_number(flag: str, text: str, *, at_least: float) -> float:
    """Return a number.

    Raises:
        ConfigError: the text is none, or it is too small.
    """
    return float(_parse(flag, text, float, Ge(at_least)))


def _parse(flag: str, text: str, annotation: Any, *metadata: Any) -> Any:
    given = f"{flag} {escape_line(shlex.quote(text))}"
    members = _members(annotation)
    value: Any = Path(text) if Path in members else _to_number(given, text, members)
    kind: Any = Annotated[annotation, *metadata] if metadata else annotation
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise ConfigError(f"{given}: {reason}") from error


def _to_number(given: str, text: str, members: list[Any]) -> int | float | str:
    """Return the number that a text stands for; the text if no number is asked for."""
    kind = next((member for member in members if member in (int, float)), None)
    choices = [choice for member in members for choice in choices_of(member)]
    if kind is None or text in choices:
        return text
    if not re.fullmatch(_INTEGER if kind is int else _NUMBER, text, re.ASCII):
        words = ["a whole number" if kind is int else "a number", *map(repr, choices)]
        raise ConfigError(f"{given}: should be {' or '.join(words)}")
    return int(text) if kind is int else float(text)


def _members(annotation: Any) -> list[Any]:
    """Return the types of a union, or the type; without None."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return [
        kind
        for kind in (get_args(annotation) if is_union else (annotation,))
        if kind is not types.NoneType
    ]
