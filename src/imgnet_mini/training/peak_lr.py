"""The peak learning rate of a run: set, from linear scaling, or from find-lr."""

from typing import Any, Final

from imgnet_mini.config.flags import run_flags
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig
from imgnet_mini.config.settings import DataConfig
from imgnet_mini.data.augment.registry import enabled_augmentations
from imgnet_mini.errors import ConfigError
from imgnet_mini.lr_finder.results import SavedSuggestion, latest_suggestion
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.optim import OPTIMIZERS
from imgnet_mini.utils.console import print_lines

_DECISIVE: Final = ("arch", "batch_size", "img_size", "optimizer")
"""Settings whose change makes a suggested learning rate invalid."""


def resolve_max_lr(config: RunConfig, paths: RunPaths) -> ResolvedConfig:
    """Return the configuration with its peak learning rate as a number.

    Raises:
        ConfigError: `max_lr` is `auto`, and find-lr has saved no suggestion for this run, or only
            for another architecture, batch size or image size.
    """
    if config.schedule.max_lr == "auto":
        return config.resolve(_suggested_lr(config, paths))
    return config.resolve(default_lr(config))


def default_lr(config: RunConfig) -> float:
    """Return the peak learning rate of training without find-lr: that set, or the default."""
    max_lr = config.schedule.max_lr
    if max_lr is None or max_lr == "auto":
        return OPTIMIZERS[config.optimizer.optimizer].default_lr(config.data.batch_size)
    return max_lr


def _suggested_lr(config: RunConfig, paths: RunPaths) -> float:
    found = latest_suggestion(paths.finder_dir, paths.name)
    if found is None:
        raise ConfigError(
            f"--max-lr auto: find-lr has saved no suggestion for {paths.name} in "
            f"{paths.finder_dir}; run first\n  imgnet-mini find-lr{run_flags(config.run)}"
        )
    _compare_settings(found, config)
    return found.lr


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return the settings that a suggested learning rate depends on, as JSON values."""
    data, optimizer = config.data, config.optimizer.in_use()
    return {
        "arch": config.model.arch,
        "batch_size": data.batch_size,
        "img_size": data.img_size,
        "augmentation": _describe_augmentation(data),
        **{name: value for name, value in optimizer.items() if name != "ema_decay"},
        "zero_init_residual": config.model.zero_init_residual,
        "epochs": config.schedule.epochs,
        "data_root": config.run.data_root.as_posix(),
    }


def _describe_augmentation(data: DataConfig) -> str:
    """Return the augmentations besides crop and flip, such as `trivial-augment, mixup 0.2`."""
    flags = [flag for entry in enabled_augmentations(data) for flag in entry.flags(data)]
    return ", ".join(flag.removeprefix("--") for flag in flags) or "standard"


def _compare_settings(found: SavedSuggestion, config: RunConfig) -> None:
    """Refuse a suggestion for another network or batch; note other differences.

    Settings that the file does not name are not compared.

    Raises:
        ConfigError: see `resolve_max_lr`.
    """
    saved = {"optimizer": "sgd"} | found.settings  # the only one of earlier versions
    differences = {
        name: f"{name} {saved[name]} instead of {value}"
        for name, value in settings_of(config).items()
        if name in saved and saved[name] != value
    }
    decisive = [text for name, text in differences.items() if name in _DECISIVE]
    if decisive:
        raise ConfigError(
            f"--max-lr auto: {found.path} was made with {'; '.join(decisive)}. Run find-lr with "
            "the settings of this run first, or set --max-lr to a number"
        )
    if differences:
        print_lines(
            f"Note: --max-lr auto takes {found.lr:.3g} from {found.path}, which was made with "
            f"{'; '.join(differences.values())}. Unless only a path changed, run find-lr again"
        )
