"""Types, checks and defaults of single settings."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator

from imgnet_mini.utils.torchrun_env import local_world_size_from_env

_MAX_DEFAULT_WORKERS = 8


@dataclass(frozen=True)
class Formerly:
    """Metadata of a renamed setting: its earlier name, still read from files, flags and runs."""

    name: str


@dataclass(frozen=True)
class UsedBy:
    """Metadata of a setting that only some choices of `optimizer` have."""

    optimizers: tuple[str, ...]


@dataclass(frozen=True)
class TrainingOnly:
    """Metadata of a setting that commands which only evaluate do not take."""


def _check_run_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) or name.endswith("."):
        raise ValueError(
            "a run name has 1 to 64 letters, digits, '.', '_' or '-'; it does not start with "
            "'.' or '-', and does not end with '.'"
        )
    if re.fullmatch(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", name, re.IGNORECASE):
        raise ValueError("Windows reserves this name for a device")
    return name


def _parse_max_lr(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    try:
        lr = float(value)
    except (TypeError, ValueError):
        lr = 0.0
    if not 0 < lr < float("inf"):
        raise ValueError("must be a learning rate above 0, or 'auto'")
    return lr


def _parse_weight_decay(value: Any) -> Any:
    return _parse_decay(value, below=float("inf"), words="a finite number of at least 0, or 'auto'")


def _parse_ema_decay(value: Any) -> Any:
    return _parse_decay(value, below=1, words="a number of at least 0 and below 1, or 'auto'")


def _parse_decay(value: Any, *, below: float, words: str) -> Any:
    if value == "auto":
        return value
    try:
        decay = float(value)
    except (TypeError, ValueError):
        decay = -1.0
    if not 0 <= decay < below:
        raise ValueError(f"must be {words}")
    return decay


def _check_progressive(sizes: str | None) -> str | None:
    if sizes is None or re.fullmatch(r"0?\.\d{1,6}:1", sizes, re.ASCII):
        return sizes
    match = re.fullmatch(r"(\d{1,5}):(\d{1,5})", sizes, re.ASCII)
    if not match or not 32 <= int(match[1]) < int(match[2]):
        raise ValueError(
            "must be two sizes in pixels, the first at least 32 and below the second, such as "
            "160:224; or the first as a fraction of the second, such as 0.7:1"
        )
    return sizes


def _check_background(color: str) -> str:
    if color == "none":
        return color
    from PIL import ImageColor  # noqa: PLC0415 - help texts do without Pillow

    with suppress(ValueError):
        if len(ImageColor.getrgb(color)) == 3:
            return color
    raise ValueError("must be a color such as white, black or #808080, or none")


Count = Annotated[int, Ge(1)]
RunName = Annotated[str, AfterValidator(_check_run_name)]
"""A plain folder name on every operating system."""
MaxLr = Annotated[float | Literal["auto"] | None, BeforeValidator(_parse_max_lr)]
WeightDecay = Annotated[float | Literal["auto"], BeforeValidator(_parse_weight_decay)]
EmaDecay = Annotated[float | Literal["auto"], BeforeValidator(_parse_ema_decay)]
Background = Annotated[str, AfterValidator(_check_background)]
"""An opaque color as Pillow reads it, or `none`."""
Progressive = Annotated[str | None, AfterValidator(_check_progressive)]
"""First and last image size: in pixels (`160:224`), or relative to img_size (`0.7:1`)."""


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """One per CPU available to this process, divided among local ranks; at most 8."""
    return max(1, min(_MAX_DEFAULT_WORKERS, available_cpus() // local_world_size_from_env()))


def default_eval_size(validated: dict[str, Any]) -> int:
    """The value of img_size."""
    return int(validated.get("img_size", 0))  # missing where it is invalid itself


def describe_bounds(metadata: Iterable[Any]) -> str:
    """Return the bounds among the metadata of a setting, such as `above 0 and at most 1`."""
    words = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
    return " and ".join(
        f"{words[type(bound)]} {getattr(bound, type(bound).__name__.lower())}"
        for bound in metadata
        if type(bound) in words
    )
