"""A trained network, as its file alone describes it: no images are needed to know it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from imgnet_mini.checkpoint.load import read_weights
from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.config.flags import run_flags
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.classes import imagenet_classes
from imgnet_mini.errors import CheckpointError, ConfigError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.model import build_with_weights, check_img_size

_LARGEST_CROP: Final = 2048
"""Pixels; a file that asks for more could be after the memory."""


@dataclass(frozen=True)
class InferenceModel:
    """A network in evaluation mode and float32, and how to feed and to read it.

    img_size: side of the images it takes.
    classes: folder names, in the order of the outputs.
    names_known: whether the file has named them.
    epoch: the one after which the weights were saved, where that is known.
    """

    model: nn.Module
    path: Path
    sha256: str
    arch: str
    img_size: int
    classes: tuple[str, ...]
    names_known: bool
    epoch: int | None


def load_inference_model(
    overrides: RunConfig, checkpoint: str, device: torch.device
) -> InferenceModel:
    """Load `best`, `last`, or the file of a path; what was typed wins over what it says of itself.

    Of a plain state dict the classes are counted: a thousand are taken to be ImageNet's.

    Raises:
        CheckpointError: it is missing or damaged, holds another network than the one named, or
            claims what cannot be.
        ConfigError: it does not say what network it is of, and nobody else did.
    """
    path = checkpoint_path(checkpoint, overrides.run.paths(), overrides)
    content, sha256 = read_weights(path)
    config = _settings(content, overrides, path)
    named = content.get("classes") if "model" in content else None
    classes = tuple(named) if named else _classes_of(_weights(content), path)
    try:
        model = load_network(config, content, path, classes=len(classes), device=device)
    except ConfigError as error:
        if "model" in overrides.explicit():
            raise
        raise CheckpointError(f"{path} cannot be used: {error}") from error  # it has said so itself
    return InferenceModel(
        model,
        path,
        sha256,
        arch=config.model.arch,
        img_size=config.data.eval_size,
        classes=classes,
        names_known=named is not None,
        epoch=epoch_of(content),
    )


def checkpoint_path(checkpoint: str, paths: RunPaths, config: RunConfig) -> Path:
    """The file that `best`, `last` or a path stands for.

    Raises:
        CheckpointError: it does not exist.
    """
    path = {"best": paths.best, "last": paths.checkpoint}.get(checkpoint, Path(checkpoint))
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}; train one with imgnet-mini train"
            f"{run_flags(config.run)}, or name one with --checkpoint best|last|PATH"
        )
    return path


def load_network(
    config: RunConfig, content: Content, path: Path, *, classes: int, device: torch.device
) -> nn.Module:
    """The network with the weights of a checkpoint of ours or of a plain state dict.

    Raises:
        CheckpointError: they are those of another network.
        ConfigError: there is no such network, or not for this size of the evaluation.
    """
    check_img_size(config.model, config.data)
    weights, img_size = _weights(content), config.data.img_size
    try:
        model = build_with_weights(config.model, weights, classes=classes, img_size=img_size)
    except torch.OutOfMemoryError:  # a RuntimeError too, but of the machine
        raise
    except RuntimeError as error:
        lines = str(error).splitlines()
        first = "\n".join(lines[1:4] or lines)
        raise CheckpointError(
            f"{path} does not fit a {config.model.arch} of {classes} classes:\n{first}"
        ) from error
    return model.to(device)


def epoch_of(content: Content) -> int | None:
    """The epoch after which the weights were saved; unknown for a plain state dict."""
    if "state" in content:
        finished = int(content["state"]["epoch"])
        return finished - 1 if finished else None
    epoch = content.get("epoch")
    return epoch if isinstance(epoch, int) else None


def other_arch(path: Path, arch: str, asked: str) -> CheckpointError:
    """The error of a file that holds another network than was asked for."""
    return CheckpointError(f"{path} holds a {arch}, not a {asked}: use --arch {arch}")


def _weights(content: Content) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = content.get("model", content)
    return weights


def _settings(content: Content, overrides: RunConfig, path: Path) -> RunConfig:
    """The file's own network and crop, under what was typed."""
    own: dict[str, dict[str, Any]] = content.get("config") or {} if "model" in content else {}
    arch, sizes = own.get("model", {}).get("arch"), own.get("data", {})
    typed = overrides.explicit()
    typed_sizes = typed.get("data", {}).keys() & {"img_size", "eval_size"}
    asked = typed.get("model", {}).get("arch")
    if arch is None and asked is None:
        raise ConfigError(
            f"{path} does not say which network it holds the weights of: name it with --arch, and "
            "the side of its images with --img-size where that is not 224"
        )
    if arch is not None and asked is not None and arch != asked:
        raise other_arch(path, arch, asked)
    said = {"model": {"arch": arch}} if arch is not None else {}
    said |= {"data": {name: sizes[name] for name in ("img_size", "eval_size") if name in sizes}}
    try:
        config = RunConfig().override(said)
        if "img_size" in typed_sizes:  # it is that of the evaluation too
            config = config.override({"data": {"eval_size": None}})
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    side = config.data.eval_size
    if side > _LARGEST_CROP and not typed_sizes:
        raise CheckpointError(
            f"{path} asks for images of {side} pixels a side; if that is meant, say so with "
            f"--img-size {side}"
        )
    return config.override(typed)


def _classes_of(weights: dict[str, Tensor], path: Path) -> tuple[str, ...]:
    """Names for the outputs of a network whose file has none."""
    last = next(reversed(weights.values()), torch.tensor(0))
    if not last.numel() or not last.ndim:
        raise CheckpointError(f"{path} does not end with the layer whose outputs are the classes")
    if len(last) == len(imagenet_classes()):
        return imagenet_classes()
    return tuple(f"class {number}" for number in range(len(last)))
