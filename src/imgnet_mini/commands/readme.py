"""Write the results of runs into a README."""

import shlex
from pathlib import Path

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import DataError, StaleError
from imgnet_mini.reporting.readme.blocks import replace_block, replace_experiment
from imgnet_mini.reporting.readme.template import render
from imgnet_mini.reporting.redact import redact_command
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import atomic_write
from imgnet_mini.utils.console import print_lines


def run(
    config: RunConfig, names: list[str], template: str, readme: Path | None, check: bool
) -> None:
    """Render runs into the README's block, or a whole README with the template `experiment`.

    names: of the runs; empty for the configured one.
    template: `results`, `experiment`, or the path of a Jinja template for the block.
    readme: by default `README.md` in the output folder.
    check: write nothing; raise an error if the README is out of date.

    Raises:
        StaleError: with `check`, the README is out of date.
        ConfigError: a name or the template is wrong, or the README was not generated.
        DataError: a run or one of its files is missing or damaged, or a marker of the README is.
        WriteError: the README cannot be written.
    """
    output_dir = config.run.output_dir
    path = readme or output_dir / "README.md"
    checked = [
        config.override({"run": {"name": name}}).run.name
        for name in dict.fromkeys(names or [config.run.name])
    ]
    runs = [read_run(RunPaths(output_dir, name), path.parent) for name in checked]
    other_file = path.name if path.name != "README.md" else None  # without folders of this machine
    refresh = redact_command(_command(checked, template, other_file))
    text = render(template, runs, refresh=shlex.join(refresh))
    old = _read(path)
    if template == "experiment":
        new = replace_experiment(old, text, path)
    else:
        new = replace_block(old or b"", text, path)
    if new == old:
        print_lines(f"{path} is up to date")
    elif check:
        command = shlex.join(_command(checked, template, readme, output_dir))
        raise StaleError(f"{path} is out of date; refresh it with `{command}`")
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


def _command(
    names: list[str], template: str, readme: Path | str | None, output_dir: Path | None = None
) -> list[str]:
    """Return the command that renders the same text again."""
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
