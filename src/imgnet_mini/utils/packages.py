"""Optional packages, which the extras of this package install."""

from collections.abc import Sequence
from importlib.util import find_spec

from imgnet_mini.errors import ConfigError


def require_packages(
    feature: str, packages: Sequence[str], *, extra: str, alternative: str = ""
) -> None:
    """Check that packages are installed.

    feature: what needs them, such as `--format onnx`.
    extra: of this package, which installs them.
    alternative: a sentence on what else can be done, with a space at its end.

    Raises:
        ConfigError: one is missing.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{feature} requires {', '.join(missing)}, not installed. {alternative}Run:\n"
            f'  pip install "imgnet-mini[{extra}]"'
        )
