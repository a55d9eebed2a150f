"""Write the settings reference of the documentation, docs/settings.md.

    python -m imgnet_mini.config.reference > docs/settings.md

The page is made from the settings classes alone, so a setting is documented where it is declared.
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from imgnet_mini.config.fields import Formerly, describe_bounds
from imgnet_mini.config.run_config import RunConfig, fields_of

COMMAND: Final = "python -m imgnet_mini.config.reference > docs/settings.md"
"""The command that makes the page."""

_INTRODUCTION: Final = f"""\
<!-- Generated: {COMMAND} -->

# Settings

This page lists every setting. Each setting has one name: a flag on the command line
(`--batch-size 128`) and a key in a TOML file (`batch_size = 128`). A later source wins over an
earlier one:

1. the default,
2. a recipe (`--recipe NAME`),
3. a settings file (`--config FILE`),
4. a flag on the command line.

```toml
[data]
batch_size = 128

[schedule]
epochs = 100
max_lr = 0.05
```

Every run saves its settings as `out/<name>/config.toml`, which `--config` reads. A command takes
the settings that it needs: `imgnet-mini COMMAND --help` lists them. A few options belong to one
command only, such as `resume --replan`, and are listed there too."""

_COMPUTED_DEFAULTS: Final = {
    "workers": "the CPUs of the machine divided by its processes, at most 8",
    "eval_size": "that of `img_size`",
}

_TYPE_NAMES: Final = {int: "integer", float: "number", str: "text", Path: "path"}


def render_reference() -> str:
    """Return the page: Markdown in ASCII, which every shell can redirect into a file."""
    sections = (_render_section(name) for name in RunConfig.model_fields)
    return "\n\n".join([_INTRODUCTION, *sections]) + "\n"


def _render_section(name: str) -> str:
    section = RunConfig.model_fields[name].annotation
    about = " ".join((section.__doc__ or "").split())
    fields = (_render_field(key, field) for key, field in fields_of(name).items())
    return "\n\n".join([f"## `[{name}]`", about, *fields])


def _render_field(name: str, field: FieldInfo) -> str:
    flag = name.replace("_", "-")
    flags = f"`--{flag}`, `--no-{flag}`" if field.annotation is bool else f"`--{flag}`"
    former = [f"earlier `{entry.name}`" for entry in field.metadata if isinstance(entry, Formerly)]
    facts = "; ".join([*_value(field), f"default {_default(name, field)}", *former])
    return "\n\n".join([f"### `{name}`", f"{flags} ({facts})", _escape(field.description or "")])


def _value(field: FieldInfo) -> list[str]:
    """The type and the bounds; nothing for a switch, whose flags say it."""
    if field.annotation is bool:
        return []
    bounds = describe_bounds(field.metadata)
    names = " or ".join(_type_names(field.annotation))
    return [f"{names}, {bounds}" if bounds else names]


def _type_names(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _type_names(member)
    elif get_origin(annotation) is Literal:
        yield from (f"`{choice}`" for choice in get_args(annotation))
    elif annotation is not types.NoneType:
        yield _TYPE_NAMES[annotation]


def _default(name: str, field: FieldInfo) -> str:
    if field.default_factory is not None:
        return _COMPUTED_DEFAULTS[name]
    value = field.default
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, but for code in backticks."""
    return text.replace("*", r"\*").replace("<", r"\<")


if __name__ == "__main__":
    sys.stdout.write(render_reference())
