"""The run configuration: all sections, from defaults, a recipe, a TOML file and what was typed."""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from imgnet_mini.config.recipes import recipe_text
from imgnet_mini.config.settings import (
    CheckpointConfig,
    DataConfig,
    FinderConfig,
    Formerly,
    ModelConfig,
    OptimizerConfig,
    PrepareConfig,
    ResolvedSchedule,
    RunSection,
    RuntimeConfig,
    ScheduleConfig,
    Section,
)
from imgnet_mini.errors import ConfigError

Tables = dict[str, dict[str, Any]]
"""Section name to field name to value, as in a TOML file."""


class RunConfig(Section):
    """Everything that defines a run."""

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
        """Name of the recipe that it starts from, if from one."""
        return self._recipe

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file; what it leaves out keeps its default.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or holds a wrong setting.
        """
        return cls().override_from(path)

    @classmethod
    def from_recipe(cls, name: str) -> Self:
        """Read a recipe; what it leaves out keeps its default.

        Raises:
            ConfigError: there is no such recipe, or it holds a wrong setting.
        """
        config = cls()._override_from_text(recipe_text(name), f"recipe {name}")
        config._recipe = name
        return config

    def override_from(self, path: Path) -> Self:
        """The same configuration with the values of a TOML file in place of its own.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or holds a wrong setting, or one that
                contradicts another one.
        """
        try:
            return self._override_from_text(path.read_text("utf-8"), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a TOML file: {error}") from error

    def _override_from_text(self, text: str, source: str) -> Self:
        """source: what an error names."""
        try:
            return self._override(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: not a TOML file: {error}") from error
        except ValidationError as error:
            raise ConfigError(_explain(error, prefix=f"{source}: ")) from error

    def override(self, changes: Tables) -> Self:
        """Return a copy with these values replaced; None resets a setting without a fixed default.

        Raises:
            ConfigError: a value is out of bounds, or contradicts another one.
        """
        try:
            return self._override(changes)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error

    def resolve(self, max_lr: float) -> "ResolvedConfig":
        """Return a copy with this peak learning rate, as training takes it.

        Raises:
            ConfigError: `max_lr` is out of bounds.
        """
        tables = self.override({"schedule": {"max_lr": max_lr}}).explicit()
        resolved = ResolvedConfig.model_validate(tables)
        resolved._recipe = self._recipe
        return resolved

    def _override(self, changes: dict[str, Any]) -> Self:
        config = type(self).model_validate(_merge(self.explicit(), changes))
        config._recipe = self._recipe
        return config

    def explicit(self) -> Tables:
        """Return the settings that a recipe, a file or a flag has set, without the defaults."""
        return self.model_dump(exclude_unset=True)

    def to_toml(self) -> str:
        """The text that `read` takes back; unset values are left out."""
        tables: Tables = self.model_dump(mode="json", exclude_none=True)
        return "\n".join(
            f"[{section}]\n"
            # A scalar reads the same in JSON and in TOML, but for the delete character.
            + "".join(
                f"{name} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", r"\u007f")
                for name, value in values.items()
            )
            for section, values in tables.items()
        )


class ResolvedConfig(RunConfig):
    """Settings of a run after its peak learning rate is resolved; saved with every checkpoint."""

    schedule: ResolvedSchedule

    @classmethod
    def from_tables(cls, tables: Tables) -> Self:
        """Read the settings of a saved run; those left out keep their defaults.

        Raises:
            ConfigError: a value is out of bounds, or there is no peak learning rate.
        """
        try:
            return cls.model_validate(_merge({}, tables))
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error


def _merge(tables: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Replace values section by section; `changes` may come from a file and hold anything."""
    merged = dict(tables)
    for section, values in changes.items():
        is_table = isinstance(values, dict) and section in RunConfig.model_fields
        merged[section] = (
            _replace_values(section, tables.get(section, {}), values) if is_table else values
        )
    return merged


def former_names(section: str) -> dict[str, str]:
    """Earlier names of a section's settings, and their names of today."""
    return {
        former.name: name
        for name, field in fields_of(section).items()
        for former in field.metadata
        if isinstance(former, Formerly)
    }


def _replace_values(section: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    former, fields = former_names(section), fields_of(section)
    values = old | {former.get(name, name): value for name, value in new.items()}
    return {
        name: value
        for name, value in values.items()
        if value is not None or name not in fields or _has_fixed_default(fields[name])
    }


def _has_fixed_default(field: FieldInfo) -> bool:
    return field.default is not None and field.default_factory is None


def _explain(error: ValidationError, prefix: str = "") -> str:
    """A line per problem, such as `optimizer.momentum: Input should be less than 1 (got 2.0)`."""
    return "\n".join(
        f"{prefix}{_explain_one(problem)}"
        for problem in error.errors()
        if problem["type"] != "default_factory_not_called"  # follows from another one
    )


def _explain_one(problem: ErrorDetails) -> str:
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown setting{_nearest(problem['loc'])}"
    reason = problem["msg"].removeprefix("Value error, ")
    # A whole section is too long to repeat.
    is_field = len(problem["loc"]) > 1 and problem["type"] != "missing"
    return f"{place}: {reason}" + (f" (got {problem['input']!r})" if is_field else "")


def _nearest(place: tuple[int | str, ...]) -> str:
    """The settings that an unknown one may have been meant for."""
    known = [
        f"{section}.{name}" for section in RunConfig.model_fields for name in fields_of(section)
    ]
    asked = ".".join(map(str, place))
    same_name = [setting for setting in known if setting.endswith(f".{place[-1]}")]
    similar = same_name or difflib.get_close_matches(asked, known, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def fields_of(section: str) -> dict[str, FieldInfo]:
    """The settings of a section, by name."""
    kind = RunConfig.model_fields[section].annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise TypeError(f"{section} is not a section")
    return kind.model_fields
