"""Command-line options made from the sections of the run configuration, and shared options."""

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from imgnet_mini.cli.values import choices_of, metavar_of, parse_setting
from imgnet_mini.config.data_settings import HoldOut
from imgnet_mini.config.fields import TrainingOnly, describe_bounds
from imgnet_mini.config.recipes import recipe_names
from imgnet_mini.config.run_config import RunConfig, Tables, fields_of, former_names
from imgnet_mini.config.training_settings import check_one_length

Command = Callable[..., None]

TRAINING_ONLY = (
    *("pack_on_device", "grad_accum_steps", "progressive"),
    *("amp", "precision", "compile", "compile_mode", "sync_bn", "deterministic", "seed"),
    *("zero_init_residual", "blur_pool", "dropout"),
    *(
        name
        for section in ("run", "data")
        for name, field in fields_of(section).items()
        if any(isinstance(mark, TrainingOnly) for mark in field.metadata)
    ),
)
"""Settings of the run, data, model and runtime sections without effect on evaluation."""

IMAGES = (
    *("data_root", "pack_dir", "workers", "loader", "skip_bad", "allow_missing_val_classes"),
    *HoldOut.model_fields,
)
"""Settings of the images of a run and of their loading."""

Checkpoint = Annotated[
    str,
    typer.Option(
        metavar="best|last|PATH",
        help="Checkpoint to load, also of other programs, or a state dict.",
    ),
]

AllowWorldSizeChange = Annotated[
    bool,
    typer.Option(
        "--allow-world-size-change",
        help="Allow resuming with a different number of processes: same data order, results not "
        "bit-identical.",
    ),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file of settings; flags override it."),
]

Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="|".join(recipe_names()),
        help="Recipe to start from; --config and flags override it.",
        autocompletion=recipe_names,
    ),
]


def config_options(
    *sections: str,
    leave_out: Collection[str] = (),
    show_defaults: bool = True,
    recipes: bool = False,
) -> Callable[[Command], Command]:
    """Add one option per field of these sections, and `--config FILE`, to a command.

    The command's `config` parameter receives a `RunConfig`: the defaults, overridden by the recipe,
    the file and the typed flags, in this order.

    show_defaults: False for commands that start from the settings of a saved run.
    recipes: add `--recipe NAME` too.
    """
    fields = {
        name: (section, field)
        for section in sections
        for name, field in fields_of(section).items()
        if name not in leave_out
    }
    former = {
        old: fields[new]
        for section in sections
        for old, new in former_names(section).items()
        if new in fields
    }

    def decorate(function: Command) -> Command:
        @wraps(function)
        def command(
            ctx: typer.Context,
            config_file: Path | None,
            recipe: str | None = None,
            **values: Any,
        ) -> None:
            changes: Tables = {}
            for name, (section, _) in (fields | former).items():
                value = values.pop(name)
                if _was_typed(ctx, name):
                    changes.setdefault(section, {})[name] = value
            check_one_length(changes.get("schedule", {}))
            base = RunConfig() if recipe is None else RunConfig.from_recipe(recipe)
            if config_file:
                base = base.override_from(config_file, flag="--config")
            function(**values, config=base.override(changes))

        parameters = inspect.signature(function, eval_str=True).parameters
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    "ctx", inspect.Parameter.POSITIONAL_ONLY, annotation=typer.Context
                ),
                *(parameter for name, parameter in parameters.items() if name != "config"),
                *([_keyword("recipe", Recipe)] if recipes else []),
                _keyword("config_file", ConfigFile),
                *(
                    _parameter(name, field, panel=section.capitalize(), show_default=show_defaults)
                    for name, (section, field) in fields.items()
                ),
                *(_hidden_alias(old, field) for old, (_, field) in former.items()),
            ]
        )
        return command

    return decorate


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _was_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameter(name: str, field: FieldInfo, *, panel: str, show_default: bool) -> inspect.Parameter:
    """Return the parameter that Typer turns into the option of a field."""
    depends = field.default_factory_takes_validated_data  # the default is another setting's value
    bounds = describe_bounds(field.metadata)
    option = typer.Option(
        help=f"{field.description}{bounds and f' ({bounds})'}",
        show_default=show_default and (not depends or "that of --img-size"),
        rich_help_panel=panel,
        **_text_options(name, field),
    )
    return _keyword(name, Annotated[_option_type(field), option], _default(field))


def _option_type(field: FieldInfo) -> Any:
    """Return the type that Typer parses: a switch, or text that `parse_setting` reads."""
    return bool if field.annotation is bool else str | None


def _text_options(name: str, field: FieldInfo) -> dict[str, Any]:
    """Return how Typer reads the text, the name of its type for help, and choices to complete."""
    if field.annotation is bool:
        return {}

    def read(ctx: typer.Context, value: str | None) -> Any:
        if value is None or not _was_typed(ctx, name):
            return value  # the default
        return parse_setting(f"--{name.replace('_', '-')}", value, field)

    choices = choices_of(field.annotation)
    completion = {"autocompletion": lambda: [*choices]} if choices else {}
    return {"callback": read, "metavar": metavar_of(field.annotation), **completion}


def _default(field: FieldInfo) -> Any:
    """Return the default, as text but for a switch; None if it is another setting's value."""
    if field.default_factory_takes_validated_data:
        return None
    value = field.get_default(call_default_factory=True)
    return value if value is None or isinstance(value, bool) else str(value)


def _hidden_alias(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the parameter of the earlier spelling of an option, which help does not show."""
    option = typer.Option(hidden=True, **_text_options(name, field))
    return _keyword(name, Annotated[_option_type(field), option], _default(field))
