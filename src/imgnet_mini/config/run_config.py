"""The run configuration: all sections, from defaults, a recipe, a TOML file and flags."""

import codecs
import difflib
import json
import shlex
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from imgnet_mini.config.data_settings import DataConfig, PrepareConfig, with_saved_decoding
from imgnet_mini.config.fields import Formerly
from imgnet_mini.config.recipes import recipe_text
from imgnet_mini.config.run_settings import CheckpointConfig, RunSection, RuntimeConfig
from imgnet_mini.config.section import Section
from imgnet_mini.config.training_settings import (
    FinderConfig,
    ModelConfig,
    OptimizerConfig,
    ResolvedOptimizer,
    ResolvedSchedule,
    ScheduleConfig,
    drop_hours,
)
from imgnet_mini.errors import ConfigError

Tables = dict[str, dict[str, Any]]
"""Section name to field name to value, as in a TOML file."""


class RunConfig(Section):
    """All settings of a run."""

    run: RunSection = Field(default_factory=RunSection)
    data: DataConfig = Field(default_factory=DataConfig)
    prepare: PrepareConfig = Field(default_factory=PrepareConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    finder: FinderConfig = Field(default_factory=FinderConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    _recipe: str | None = PrivateAttr(default=None)

    @property
    def recipe(self) -> str | None:
        """Name of the recipe that these settings start from, if any."""
        return self._recipe

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file; settings left out keep their defaults.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or holds a wrong setting.
        """
        return cls().override_from(path)

    @classmethod
    def read_saved(cls, path: Path) -> Self:
        """Read the `config.toml` of a run, with the decoding that its version had.

        Raises:
            ConfigError: see `read`.
        """
        saved = cls.read(path)
        return saved.override(with_saved_decoding(saved.explicit()))

    @classmethod
    def from_recipe(cls, name: str) -> Self:
        """Read a recipe; settings left out keep their defaults.

        Raises:
            ConfigError: there is no such recipe, or it holds a wrong setting.
        """
        config = cls()._override_from_text(recipe_text(name), f"recipe {name}")
        config._recipe = name
        return config

    def override_from(self, path: Path, *, flag: str = "") -> Self:
        """Return a copy with the values of a TOML file.

        flag: that the path was typed with, for the message on a file that cannot be read.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or holds a wrong setting, or one that
                contradicts another one.
        """
        typed = f"{flag} {path}".lstrip()
        try:
            return self._override_from_text(_decode(path.read_bytes()), str(path))
        except OSError as error:
            raise ConfigError(f"{typed}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{typed}: not a TOML file: {error}") from error

    def _override_from_text(self, text: str, source: str) -> Self:
        try:
            return self.override(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: not a TOML file: {error}") from error
        except ConfigError as error:
            lines = str(error).splitlines()
            raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from error

    def override(self, changes: Tables) -> Self:
        """Return a copy with these values replaced; None resets a setting without a fixed default.

        Raises:
            ConfigError: a setting is unknown, out of bounds, or contradicts another one.
        """
        config = _validate(type(self), _merge(drop_hours(self.explicit(), changes), changes))
        config._recipe = self._recipe
        return config

    def resolve(self, max_lr: float, *, steps: int | None = None) -> "ResolvedConfig":
        """Return a copy with this peak learning rate, ready for training.

        steps: of the training, for decays that are `auto`.

        Raises:
            ConfigError: `max_lr` is out of bounds, or the training is too short for `auto`.
        """
        try:
            optimizer = self.optimizer.resolve(max_lr, steps).model_dump(exclude_unset=True)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        tables = _merge(self.explicit(), {"schedule": {"max_lr": max_lr}, "optimizer": optimizer})
        config = _validate(ResolvedConfig, tables)
        config._recipe = self._recipe
        return config

    def explicit(self) -> Tables:
        """Return the settings that a recipe, a file or a flag has set, without the defaults."""
        return self.model_dump(exclude_unset=True)

    def to_toml(self) -> str:
        """Return the text that `read` parses; unset values are left out."""
        tables: Tables = self.model_dump(mode="json", exclude_none=True)
        return "\n".join(
            f"[{section}]\n"
            # JSON scalars are TOML scalars, but for the delete character.
            + "".join(
                f"{name} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", r"\u007f")
                for name, value in values.items()
            )
            for section, values in tables.items()
        )


class ResolvedConfig(RunConfig):
    """Settings of a run with its peak learning rate and decays resolved; saved in checkpoints."""

    optimizer: ResolvedOptimizer = Field(default_factory=ResolvedOptimizer)
    schedule: ResolvedSchedule

    @classmethod
    def from_tables(cls, tables: Tables) -> Self:
        """Read the settings of a saved run; those left out keep their defaults.

        Raises:
            ConfigError: a value is out of bounds, or the peak learning rate is missing.
        """
        return _validate(cls, _merge({}, with_saved_decoding(tables)))


def _decode(content: bytes) -> str:
    """Return text without its byte order mark; UTF-16, such as of PowerShell, has one."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig")


ConfigT = TypeVar("ConfigT", bound=RunConfig)


def fields_of(section: str) -> dict[str, FieldInfo]:
    """Return the settings of a section by name."""
    kind = RunConfig.model_fields[section].annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise TypeError(f"{section} is not a section")
    return kind.model_fields


def former_names(section: str) -> dict[str, str]:
    """Return the earlier names of settings of a section, each with its present name."""
    return {
        former.name: name
        for name, field in fields_of(section).items()
        for former in field.metadata
        if isinstance(former, Formerly)
    }


def run_flags(run: RunSection) -> str:
    """Return the flags that name this run in another command, with a leading space."""
    return config_flags(RunConfig(run=run), "run", leave_out=("data_root", "pack_dir", "track"))


def config_flags(config: RunConfig, *sections: str, leave_out: Collection[str] = ()) -> str:
    """Return the flags that give another command these settings, with a leading space.

    A recipe is named, followed only by the settings that differ from it.
    """
    leave_out = leave_out if config.schedule.hours is None else {*leave_out, "epochs"}
    recipe = config.recipe
    words = [] if recipe is None else ["--recipe", recipe]
    base = RunConfig() if recipe is None else RunConfig.from_recipe(recipe)
    for section in sections:
        values = getattr(config, section)
        for name, value in values:
            is_default = name not in values.model_fields_set
            if is_default or name in leave_out or value == getattr(getattr(base, section), name):
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
    return f" {shlex.join(words)}" if words else ""


def _merge(tables: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Replace values section by section; `changes` may come from a file and hold anything."""
    merged = dict(tables)
    for section, values in changes.items():
        if section in RunConfig.model_fields and isinstance(values, dict):
            merged[section] = _merge_section(section, tables.get(section, {}), values)
        else:
            merged[section] = values
    return merged


def _merge_section(section: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    fields = fields_of(section)
    values = old | _rename_former(section, new)
    return {
        name: value
        for name, value in values.items()
        if value is not None or name not in fields or _has_fixed_default(fields[name])
    }


def _rename_former(section: str, values: dict[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    former = former_names(section)
    for name, value in values.items():
        current = former.get(name, name)
        if (known := renamed.setdefault(current, value)) is not value and known != value:
            old = next(old for old, new in former.items() if new == current)
            raise ConfigError(
                f"{section}.{current}: {values[current]}, but its earlier name {old} is set to "
                f"{values[old]}: leave {old} out"
            )
    return renamed


def _has_fixed_default(field: FieldInfo) -> bool:
    return field.default is not None and field.default_factory is None


def _validate(kind: type[ConfigT], tables: dict[str, Any]) -> ConfigT:
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    """Write a line per problem: `optimizer.momentum: Input should be less than 1 (got 2.0)`."""
    return "\n".join(
        _explain_problem(problem)
        for problem in error.errors()
        if problem["type"] != "default_factory_not_called"  # follows from another problem
    )


def _explain_problem(problem: ErrorDetails) -> str:
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown setting{_suggest(problem['loc'])}"
    reason = problem["msg"].removeprefix("Value error, ")
    # A whole section is too long to repeat.
    is_field = len(problem["loc"]) > 1 and problem["type"] != "missing"
    return f"{place}: {reason}" + (f" (got {problem['input']!r})" if is_field else "")


def _suggest(place: tuple[int | str, ...]) -> str:
    known = [
        f"{section}.{name}" for section in RunConfig.model_fields for name in fields_of(section)
    ]
    unknown = ".".join(map(str, place))
    same_name = [setting for setting in known if setting.endswith(f".{place[-1]}")]
    similar = same_name or difflib.get_close_matches(unknown, known, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""
