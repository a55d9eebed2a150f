"""Write the results of runs into a README."""

import shlex
from pathlib import Path

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import DataError, StaleError
from imgnet_mini.reporting.readme.redact import command_line
from imgnet_mini.reporting.readme.run_view import read_run
from imgnet_mini.reporting.readme.splice import as_experiment, with_block
from imgnet_mini.reporting.readme.template import render
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import atomic_write
from imgnet_mini.utils.console import print_lines


def run(
    config: RunConfig, names: list[str], template: str, readme: Path | None, check: bool
) -> None:
    """Render runs into the README's block, or a whole README with the template `experiment`.

    names: the runs; none means the configured one.
    template: `results`, `experiment`, or the path of a Jinja template for the block.
    readme: default `README.md` in the output folder.
    check: write nothing, and fail where something would have been written.

    Raises:
        StaleError: with `check`, the README is not what would be written now.
        ConfigError: a name or the template is wrong, or the README is not ours to overwrite.
        DataError: a run or one of its files is missing or damaged, or the README's markers are.
        WriteError: the README cannot be written.
    """
    output_dir = config.run.output_dir
    path = readme or output_dir / "README.md"
    checked = [
        config.override({"run": {"name": name}}).run.name
        for name in dict.fromkeys(names or [config.run.name])
    ]
    runs = [read_run(RunPaths(output_dir, name), path.parent) for name in checked]
    other_file = path.name if path.name != "README.md" else None  # no folders of this machine
    text = render(template, runs, refresh=command_line(_words(checked, template, other_file)))
    old = _read(path)
    if template == "experiment":
        new = as_experiment(old, text, path)
    else:
        new = with_block(old or b"", text, path)
    if new == old:
        print_lines(f"{path} is up to date")
    elif check:
        refresh = shlex.join(_words(checked, template, readme, output_dir))
        raise StaleError(f"{path} is out of date; refresh it with `{refresh}`")
    else:
        with atomic_write(path.resolve()) as file:  # a link stays a link
            file.write(new)
        print_lines(f"Wrote {', '.join(checked)} into {path}")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _words(
    names: list[str], template: str, readme: Path | str | None, output_dir: Path | None = None
) -> list[str]:
    """The command that renders the same again."""
    words = ["imgnet-mini", "readme"]
    for name in names:
        words += ["--name", name]
    if template != "results":
        words += ["--template", template]
    if readme is not None:
        words += ["--readme", str(readme)]
    if output_dir not in (None, Path()):
        words += ["--output-dir", str(output_dir)]
    return words
