"""READMEs rendered from packaged Jinja templates, or from the user's own."""

import traceback
from collections.abc import Sequence
from pathlib import Path

from jinja2 import ChoiceLoader, FileSystemLoader, PackageLoader, StrictUndefined
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from imgnet_mini.errors import ConfigError
from imgnet_mini.reporting.advice import next_steps, remarks
from imgnet_mini.reporting.comparison import compare_runs, differing_settings
from imgnet_mini.reporting.readme.blocks import NOTES, RESULTS, end_marker, start_marker
from imgnet_mini.reporting.readme.markdown import FILTERS
from imgnet_mini.reporting.run_view import RunView

# Errors that an expression of a template can raise.
_TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)

PACKAGED = ("results", "experiment")


def render(template: str, runs: Sequence[RunView], refresh: str) -> str:
    """Return the Markdown of runs, without newlines at its start and end.

    A template has `runs`, `run` (the first), `comparison` (the runs side by side), `differing`
    (the settings that differ), `remarks` and `next_steps` (of the first run), `refresh` (the
    command that renders it again), and the filters `md`, `code`, `fence`, `fixed`, `percent`,
    `rate` and `duration`. It is rendered in Jinja's sandbox.

    template: a name of `PACKAGED`, or the path of a Jinja template.

    Raises:
        ConfigError: the template is missing or malformed, or uses an unknown name.
    """
    is_packaged = template in PACKAGED
    path = Path(f"{template}.md.j2") if is_packaged else Path(template)
    if not is_packaged and not path.is_file():
        raise ConfigError(
            f"there is no template {template}; give the path of a Jinja template, "
            f"or one of: {', '.join(PACKAGED)}"
        )
    environment = make_environment(None if is_packaged else path.parent)
    try:
        text = environment.get_template(path.name).render(
            runs=runs,
            run=runs[0],
            comparison=compare_runs(runs),
            differing=differing_settings(runs),
            remarks=remarks(runs[0]),
            next_steps=next_steps(runs[0]),
            refresh=refresh,
        )
    except _TEMPLATE_ERRORS as error:
        if is_packaged:
            raise
        raise ConfigError(f"{_locate(error, path)}: {error}") from error
    if {start_marker(RESULTS), end_marker(RESULTS)} & {line.strip() for line in text.splitlines()}:
        raise ConfigError(f"{path}: the output contains a marker of the results block; remove it")
    return text.strip("\n")


def make_environment(folder: Path | None) -> ImmutableSandboxedEnvironment:
    """Return an environment where templates of the user's folder can import packaged ones.

    folder: of the user's templates; None for packaged ones alone.
    """
    folders = [FileSystemLoader(folder, encoding="utf-8-sig")] if folder is not None else []
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([*folders, PackageLoader("imgnet_mini")]),
        undefined=StrictUndefined,
        autoescape=False,  # the output is Markdown; names pass the filter `md`
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(notes_start=start_marker(NOTES), notes_end=end_marker(NOTES))
    return environment


def _locate(error: Exception, path: Path) -> str:
    """Return the template's file and, if known, the line."""
    if isinstance(error, TemplateSyntaxError):
        return f"{error.filename or path}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        frame for frame in frames if frame.filename.endswith(".j2") or Path(frame.filename) == path
    ]
    return f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else str(path)
