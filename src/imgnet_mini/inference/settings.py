"""Settings of a saved run, and those to evaluate a checkpoint file with."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from imgnet_mini.checkpoint.manifest import Manifest
from imgnet_mini.checkpoint.schema import Weights
from imgnet_mini.config.data_settings import EARLIER_DECODING, Decoding, with_saved_decoding
from imgnet_mini.config.run_config import RunConfig, Tables
from imgnet_mini.errors import CheckpointError, ConfigError
from imgnet_mini.runs.paths import RunPaths

_LARGEST_CROP: Final = 2048
"""Pixels; a file that asks for more could be after the memory."""

_OF_MACHINE: Final = ("batch_size", "workers", "loader", "pack_on_device")
"""Settings of the data section that do not come with a file from another machine."""


def saved_settings(overrides: RunConfig) -> RunConfig:
    """Return the settings of the run of this name, if it exists, with `overrides` applied.

    An explicit `img_size` is also the size of the evaluation, unless `eval_size` is explicit too.
    """
    saved = _read_saved(overrides.run.output_dir, overrides.run.name)
    return overrides if saved is None else _apply(saved, overrides)


def checkpoint_settings(
    overrides: RunConfig, checkpoint: str, path: Path, tables: Tables | None
) -> RunConfig:
    """Return the settings to evaluate a checkpoint with; `run` is the run that it belongs to.

    Those of the file come first, then those of its run, if that is at hand; explicit ones replace
    both, except for the name of the run.

    checkpoint: `best`, `last`, or a file; path: of the file.
    tables: settings that the file holds; None for a plain state dict.

    Raises:
        CheckpointError: the settings of the file cannot be used.
    """
    if checkpoint in ("best", "last"):
        return saved_settings(overrides)
    if tables is None:
        decoding = {"data": EARLIER_DECODING.model_dump()}
        return _apply(saved_settings(overrides).override(decoding), overrides)
    output_dir, name = _find_run(overrides, path, tables)
    run = {"name": name, "output_dir": output_dir}
    saved = _read_saved(output_dir, name)
    try:
        if saved is None:
            images = {key: tables.get("run", {}).get(key) for key in ("data_root", "pack_dir")}
            given = {key: value for key, value in images.items() if value is not None}
            saved = RunConfig().override({"run": given})
        config = saved.override(_settings_of_network(with_saved_decoding(tables)))
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    return _apply(config, overrides).override({"run": run})


def check_saved_by(paths: RunPaths, path: Path, sha256: str) -> None:
    """Check that a checkpoint file is not stored with the results of a run that did not save it.

    Raises:
        ConfigError: the run exists, and the file is neither in its folder nor in its manifest.
    """
    if paths.config.exists() and not is_saved_by(paths, path, sha256):
        raise ConfigError(
            f"{path} was not saved by the run {paths.name}, whose results are in "
            f"{paths.report_dir}: store this one under a new --name"
        )


def is_saved_by(paths: RunPaths, path: Path, sha256: str) -> bool:
    """Return whether a checkpoint file is in the folder of a run, or in its manifest."""
    if path.resolve().parent == paths.checkpoint_dir.resolve():
        return True
    with suppress(CheckpointError):  # of a damaged manifest
        manifest = Manifest.read(paths.manifest)
        return manifest is not None and manifest.find(sha256) is not None
    return False


def _read_saved(output_dir: Path, name: str) -> RunConfig | None:
    """Return the settings of a run; None if it does not exist."""
    path = RunPaths(output_dir, name).config
    return RunConfig.read_saved(path) if path.exists() else None


def _apply(saved: RunConfig, overrides: RunConfig) -> RunConfig:
    explicit = overrides.explicit()
    if "img_size" in explicit.get("data", {}):
        saved = saved.override({"data": {"eval_size": None}})
    # The run may have been moved since: its saved name and folder do not count.
    place = {"name": overrides.run.name, "output_dir": overrides.run.output_dir}
    return saved.override(explicit).override({"run": place})


def _settings_of_network(tables: Tables) -> Tables:
    """Return what defines the network, its images and its loss."""
    found = {section: tables.get(section, {}) for section in ("data", "model", "optimizer")}
    data = {name: value for name, value in found["data"].items() if name not in _OF_MACHINE}
    return found | {"data": data}


def _find_run(overrides: RunConfig, path: Path, tables: Tables) -> tuple[Path, str]:
    """Return output folder and name of the run of a file: by its folder, else by its settings."""
    given = overrides.run.output_dir
    folder = path.resolve().parent
    if folder.parent.name == "checkpoints":
        with suppress(ConfigError):  # a folder that no run can have
            name = RunConfig().override({"run": {"name": folder.name}}).run.name
            found = folder.parent.parent
            return (given if found == given.resolve() else found), name
    named = overrides.explicit().get("run", {}).get("name")
    name = named or tables.get("run", {}).get("name", overrides.run.name)
    return given, RunConfig().override({"run": {"name": name}}).run.name


def wrong_arch_error(path: Path, arch: str, asked: str) -> CheckpointError:
    """Return the error for a file that holds another network than was asked for."""
    return CheckpointError(f"{path} holds a {arch}, not a {asked}: use --arch {arch}")


def inference_settings(weights: Weights, overrides: RunConfig, path: Path) -> RunConfig:
    """Return the network and image size of the file, with explicit settings on top."""
    arch, sizes = weights.network, (weights.config or {}).get("data", {})
    explicit = overrides.explicit()
    explicit_sizes = explicit.get("data", {}).keys() & {"img_size", "eval_size"}
    asked = explicit.get("model", {}).get("arch")
    if arch is None and asked is None:
        raise ConfigError(
            f"{path} does not name its network: name it with --arch, and its image size with "
            "--img-size if that is not 224"
        )
    if arch is not None and asked is not None and arch != asked:
        raise wrong_arch_error(path, arch, asked)
    tables = {"model": {"arch": arch}} if arch is not None else {}
    data = {name: sizes[name] for name in ("img_size", "eval_size") if name in sizes}
    tables["data"] = data | saved_decoding(weights)
    try:
        config = RunConfig().override(tables)
        if "img_size" in explicit_sizes:  # also the size of the evaluation
            config = config.override({"data": {"eval_size": None}})
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    side = config.data.eval_size
    if side > _LARGEST_CROP and not explicit_sizes:
        raise CheckpointError(
            f"{path} asks for images of {side} pixels a side; if that is right, use --img-size "
            f"{side}"
        )
    return config.override(explicit)


def saved_decoding(weights: Weights) -> dict[str, Any]:
    """Return the settings of the decoding that the network was trained with.

    Weights without settings are taken for weights trained on torchvision's ImageFolder.
    """
    data = with_saved_decoding(weights.config or {})["data"]
    return {name: data[name] for name in Decoding.model_fields if name in data}
