"""Options of an export, and the checks that come before the model is loaded."""

import re
from dataclasses import dataclass
from pathlib import Path

from imgnet_mini.errors import ConfigError
from imgnet_mini.export.formats import FOLDER_FORMATS, FORMATS
from imgnet_mini.export.hub import UNKNOWN_LICENSE, check_repository
from imgnet_mini.utils.packages import require_packages


@dataclass(frozen=True)
class HubOptions:
    """Options of `--format hub`.

    push: repository to upload the folder to; None: nothing is uploaded.
    private: make a new repository private.
    license_id: of the weights, for the model card.
    """

    push: str | None = None
    private: bool = False
    license_id: str = UNKNOWN_LICENSE


def choose_format(form: str | None, output: Path | None) -> str:
    """Return the name of the format that was asked for, or that the output's suffix stands for.

    Raises:
        ConfigError: there is no such format.
    """
    if form is None:
        suffixes = {known.suffix: name for name, known in FORMATS.items()}
        form = suffixes.get(output.suffix.lower(), "pt2") if output is not None else "pt2"
    names = [*FORMATS, *FOLDER_FORMATS]
    if form not in names:
        raise ConfigError(f"--format {form}: choose one of {', '.join(names)}")
    return form


def check_inputs(inputs: str, form: str) -> None:
    """Check that a format can hold a graph with these inputs.

    Raises:
        ConfigError: it cannot.
    """
    if inputs not in ("float32", "uint8"):
        raise ConfigError(f"--inputs {inputs}: choose one of float32, uint8")
    if inputs == "uint8" and form not in ("onnx", "pt2"):
        raise ConfigError(
            f"--inputs uint8 puts resize and normalization into the graph, and --format {form} "
            "cannot hold them: use --format onnx or pt2"
        )


def check_hub_options(form: str, hub: HubOptions) -> HubOptions:
    """Return the options if they fit the format, and the login for an upload is there.

    Raises:
        ConfigError: they do not, or nobody is logged in.
    """
    if form != "hub" and hub != HubOptions():
        raise ConfigError(
            f"--push, --private and --license are for --format hub, not for --format {form}"
        )
    if hub.private and hub.push is None:
        raise ConfigError("--private is for a repository that --push makes: add --push REPO")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", hub.license_id):
        raise ConfigError(
            f"--license {hub.license_id}: give an identifier of the Hugging Face Hub, such as mit, "
            "apache-2.0 or cc-by-nc-4.0"
        )
    if hub.push is not None:
        check_repository(hub.push)
    return hub


def check_packages(form: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        ConfigError: one is missing.
    """
    export_format = (FORMATS | FOLDER_FORMATS)[form]
    require_packages(f"--format {form}", export_format.packages, extra=export_format.extra)
