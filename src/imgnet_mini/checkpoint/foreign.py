"""Files of other programs: where their weights are, and under which names."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from torch import Tensor

from imgnet_mini.checkpoint.reader import MAX_BYTES, MAX_PICKLE_BYTES, Content
from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.errors import CheckpointError
from imgnet_mini.utils.console import escape_line, join_names
from imgnet_mini.utils.packages import require_packages

DESCRIPTION: Final = "imgnet-mini.json"
"""Metadata key of the description that `export` writes into a safetensors file."""

_WEIGHTS_KEYS: Final = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
"""Of torchvision's reference scripts, of timm and Lightning, and of many tutorials."""

_WRAPPERS: Final = ("module.", "_orig_mod.", "_forward_module.", "model.")
"""Prefixes of names by DistributedDataParallel, torch.compile, Fabric and Lightning modules."""


def is_safetensors(file: BinaryIO) -> bool:
    """Return True if an open file has the header of safetensors."""
    file.seek(0)
    return file.read(9)[8:] == b"{"


def load_safetensors(file: BinaryIO, path: Path) -> Content:
    """Read an open file; of one that `export` wrote, also classes and settings.

    Raises:
        CheckpointError: the file is damaged.
        ConfigError: the package safetensors is not installed.
    """
    require_packages(str(path), ["safetensors"], extra="safetensors")
    from safetensors import SafetensorError  # noqa: PLC0415 - optional
    from safetensors.torch import load  # noqa: PLC0415

    file.seek(0)
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_PICKLE_BYTES or file.seek(0, 2) > MAX_BYTES:
        raise CheckpointError(f"{path} is larger than any checkpoint")
    file.seek(8)
    try:
        metadata = json.loads(file.read(header_bytes)).get("__metadata__") or {}
        described = _read_description(json.loads(metadata.get(DESCRIPTION, "{}")))
        file.seek(0)
        return described | {"model": load(file.read())}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or damaged ({error})") from error


def _read_description(described: Mapping[str, Any]) -> Content:
    """Return the fields of `Weights` that a description of `export` has."""
    if not described:
        return {}
    side, inputs = described["input"]["shape"][-1], described["preprocessing"]
    decoding = {name: inputs[name] for name in Decoding.model_fields if name in inputs}
    return {
        "format": None,
        "classes": described["classes"],
        "epoch": described["epoch"],
        "config": {
            "model": {"arch": described["arch"]},
            "data": {"img_size": side, "eval_size": side, **decoding},
        },
    }


def find_weights(content: Content, path: Path) -> Content:
    """Return the fields of `Weights` in a file of imgnet-mini or of another program.

    Raises:
        CheckpointError: there is no state dict in it, or there are several.
    """
    if "model" in content and ("format" in content or {"config", "classes"} <= content.keys()):
        return content
    epoch = content.get("epoch")
    return {
        "model": _without_wrappers(_find_state_dict(content, path)),
        "arch": _find_arch(content),
        "epoch": epoch if isinstance(epoch, int) and epoch >= 0 else None,
    }


def _find_state_dict(content: Content, path: Path) -> dict[str, Tensor]:
    if _is_state_dict(content):
        return content
    inside = {name: value for name, value in content.items() if isinstance(value, dict)}
    usual = [inside[name] for name in _WEIGHTS_KEYS if name in inside]
    for value in usual:
        if _is_state_dict(value):
            return value
    if usual and not any(isinstance(value, Tensor) for value in usual[0].values()):
        return _find_state_dict(usual[0], path)
    others = {name: value for name, value in inside.items() if _is_state_dict(value)}
    if len(others) == 1:
        return next(iter(others.values()))
    names = join_names([escape_line(str(name)) for name in others or content])
    found = f"several state dicts, {names}" if others else "no state dict"
    found += f", but {names}" if content and not others else ""
    raise CheckpointError(
        f"{path} holds {found}: save the weights of the network alone, "
        "torch.save(model.state_dict(), FILE)"
    )


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the network in a wrapper, without those beside it."""
    prefix = next((one for one in _WRAPPERS if any(name.startswith(one) for name in weights)), None)
    if prefix is None:  # an attribute that is all there is: no network of torchvision has one
        first = f"{next(iter(weights)).partition('.')[0]}."
        prefix = first if all(name.startswith(first) for name in weights) else None
    if prefix is None or len(weights) == 1:
        return weights
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    return _without_wrappers(inner)


def _find_arch(content: Content) -> str | None:
    """Return the name of the network, as timm and torchvision's reference scripts save it."""
    args = content.get("args")
    options = vars(args) if isinstance(args, argparse.Namespace) else {}
    for name in (content.get("arch"), options.get("model"), options.get("arch")):
        if isinstance(name, str):
            return name
    return None
