"""A folder for the Hugging Face Hub: what timm reads, and the upload."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from imgnet_mini.errors import ConfigError, WriteError
from imgnet_mini.export.formats import EXTRA_FILE, Description, ExportedModel
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import escape_line

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
CARD: Final = "README.md"
CURVES: Final = ("accuracy_curve.png", "loss_curve.png", "lr_curve.png")

REPOSITORY: Final = "OWNER/REPOSITORY"
"""Stands in a card for the name of its repository until this is known."""

UNKNOWN_LICENSE: Final = "unknown"
"""The Hub's identifier for weights without a stated license."""

_TIMM_LAYERS: Final = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), "conv1 fc"),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"), "conv1 fc"),
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), "conv1 fc"),
    **dict.fromkeys(
        ("densenet121", "densenet161", "densenet169", "densenet201"), "features.conv0 classifier"
    ),
    "inception_v3": "Conv2d_1a_3x3.conv fc",
}
"""First and last layer of the networks that timm has with torchvision's names and tensors."""


_TIMM_CROP_MODES: Final = {"crop": "center", "pad": "border", "squash": "squash"}
"""timm's names of `--fit`; its borders always have the mean color of ImageNet."""


def is_in_timm(arch: str) -> bool:
    """Return whether timm has this network, with the same names of its tensors."""
    return arch in _TIMM_LAYERS


def describe_for_timm(description: Description, *, license_id: str) -> Description:
    """Return timm's `config.json` of an exported model.

    It has no tag: that names weights of timm's own.

    description: see `formats.describe`, of a network that is in timm.
    """
    preprocessing, classes = description["preprocessing"], description["classes"]
    side = preprocessing["center_crop"]
    first_conv, classifier = _TIMM_LAYERS[description["arch"]].split()
    return {
        "architecture": description["arch"],
        "num_classes": len(classes),
        "label_names": classes,
        "label_descriptions": dict(zip(classes, description["names"], strict=True)),
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": _crop_fraction(side, preprocessing["resize"]),
            "crop_mode": _TIMM_CROP_MODES[preprocessing["fit"]],
            "mean": preprocessing["mean"],
            "std": preprocessing["std"],
            "num_classes": len(classes),
            "first_conv": first_conv,
            "classifier": classifier,
            "license": license_id,
        },
    }


def _crop_fraction(side: int, resize: int) -> float:
    """Return the fraction from which timm computes `resize`, as floor(side / fraction)."""
    return math.floor(1e6 * side / resize) / 1e6


def has_timm() -> bool:
    """Return whether timm is installed."""
    return find_spec("timm") is not None


def read_with_timm(folder: Path) -> ExportedModel:
    """Return the network that timm makes of a folder."""
    import timm

    model: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return torch.no_grad()(model.eval())


def folder_checkpoint(folder: Path) -> str | None:
    """Return the SHA-256 of the checkpoint that a folder was made of; None for another folder."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            metadata = file.metadata() or {}
        sha256: str | None = json.loads(metadata.get(EXTRA_FILE, "{}")).get("checkpoint_sha256")
    except (OSError, SafetensorError, ValueError):
        return None
    return sha256


def check_repository(repository: str) -> None:
    """Check the name of a repository, and that there is a token for the Hub.

    Raises:
        ConfigError: the name is malformed, or nobody is logged in.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(
            f"--push {escape_line(repository)}: give the name of a repository, such as NAME or "
            "OWNER/NAME, of letters, digits, '-', '_' and '.'"
        ) from error
    if get_token() is None:
        raise ConfigError(
            f"--push {repository}: there is no login of the Hugging Face Hub on this machine. Run "
            "`hf auth login`, or set HF_TOKEN"
        )


def push_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload the files of a folder to a repository of models; return its address.

    The repository is made if it does not exist. Other files in the folder are not uploaded.

    private: of a new repository.

    Raises:
        WriteError: the Hub cannot be reached, or has refused.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="imgnet-mini")
    with _translate_hub_errors(folder, repository):
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        _name_repository(folder / CARD, made.repo_id)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            allow_patterns=[WEIGHTS, CONFIG, CARD, *CURVES],
            commit_message="Upload a model of imgnet-mini",
        )
    return str(made)


def _name_repository(card: Path, repository: str) -> None:
    """Write the name of the repository into the examples of a card."""
    if card.is_file():
        text = card.read_text("utf-8", "surrogateescape")
        write_text(card, text.replace(REPOSITORY, repository))


@contextmanager
def _translate_hub_errors(folder: Path, repository: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except HfHubHTTPError as error:
        reason = _explain(error.response.status_code, error.server_message)
        raise _push_error(folder, repository, reason) from error
    except (HTTPError, OSError) as error:  # of httpx, of the older requests, or offline mode
        reason = f"the Hub cannot be reached ({_first_line(error)})"
        raise _push_error(folder, repository, reason) from error


def _push_error(folder: Path, repository: str, reason: str) -> WriteError:
    return WriteError(
        f"--push {repository}: {reason}. {folder} is complete: the same command tries again"
    )


def _explain(status: int, message: str | None) -> str:
    said = f" ({escape_line(message)})" if message else ""
    if status == 401:
        return f"the Hub has refused the login{said}. Log in again with `hf auth login`"
    if status in (403, 404):
        return f"the login may not write there, or there is no such owner{said}"
    return f"the Hub has answered {status}{said}"


def _first_line(error: Any) -> str:
    return escape_line(str(error).strip().splitlines()[0] if str(error).strip() else repr(error))
