"""What a checkpoint has to hold, field by field."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from annotated_types import Len
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    InstanceOf,
    NonNegativeInt,
    ValidationError,
)
from torch import Tensor

from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.errors import CheckpointError

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = InstanceOf[str]
"""Also names whose bytes are no UTF-8; a `str` of pydantic holds none."""
ClassName = Annotated[Text, Len(1, 255)]
NonNegativeFiniteFloat = Annotated[FiniteFloat, Field(ge=0)]
Percent = Annotated[FiniteFloat, Field(ge=-1, le=100)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="ignore")


class _State(_Checked):
    epoch: NonNegativeInt
    step: NonNegativeInt
    batch: NonNegativeInt
    rate: FiniteFloat
    loss_sum: FiniteFloat
    top1: NonNegativeInt
    top5: NonNegativeInt
    seconds: FiniteFloat
    best_top1: Percent
    best_epoch: Annotated[int, Field(ge=-1)]


class _Record(_Checked):
    epoch: NonNegativeInt
    phase: Literal["train", "val"]
    loss: FiniteFloat
    top1: Percent
    top5: Percent
    lr: FiniteFloat
    imgs_per_sec: FiniteFloat


class _Group(_Checked):
    params: list[NonNegativeInt]
    lr: NonNegativeFiniteFloat
    initial_lr: NonNegativeFiniteFloat
    max_lr: NonNegativeFiniteFloat
    min_lr: NonNegativeFiniteFloat
    momentum: NonNegativeFiniteFloat
    weight_decay: NonNegativeFiniteFloat


class _Optimizer(_Checked):
    state: dict[int, dict[str, Tensor | None]]
    param_groups: Annotated[list[_Group], Len(1, 1000)]


class _Weights(_Checked):
    """What `evaluate` needs; a file of another tool has none of the fields below the first."""

    model: dict[str, Tensor]
    classes: Annotated[list[ClassName], Len(1, 100_000)] | None = None
    config: dict[str, dict[str, Any]] | None = None
    epoch: NonNegativeInt | None = None
    state: _State | None = None


class _Run(_Weights):
    """What `resume` needs."""

    optimizer: _Optimizer
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    state: _State
    rng: dict[Literal["cpu", "cuda"], Tensor]
    rng_of_others: list[dict[Literal["cpu", "cuda"], Tensor]] = []
    """Of rank 1 and up."""
    records: list[_Record]
    config: dict[str, dict[str, Any]]
    classes: Annotated[list[ClassName], Len(1, 100_000)]
    environment: dict[str, str | int]
    images: Digest | None = None
    train_fingerprint: Digest | None = None
    """In place of `images`, of version 0.1.0."""
    skipped: dict[Text, Text] = {}
    pack: Digest | None = None
    best: Digest | None = None
    """Of best.pth."""


T = TypeVar("T", bound=_Weights)


def check_run(content: Content, path: Path) -> Content:
    """The content of a checkpoint that can be resumed.

    Raises:
        CheckpointError: a field is missing or wrong; names it.
    """
    run = _check(_Run, content, path)
    if run.images is None and run.train_fingerprint is None:
        raise CheckpointError(f"{path}: images: Field required")
    momenta = [m for state in run.optimizer.state.values() for m in state.values()]
    _refuse_infinite([m for m in momenta if m is not None], path, "momentum")
    return content


def check_weights(content: Content, path: Path) -> Content:
    """The content of a file of weights: ours, or a plain state dict.

    Raises:
        CheckpointError: a field is wrong; names it.
    """
    if "model" in content:
        _check(_Weights, content, path)
    else:
        _check(_Weights, {"model": content}, path)
    return content


def _check(kind: type[T], content: Content, path: Path) -> T:
    try:
        checked = kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be used: {_explain(error)}") from error
    _refuse_infinite(list(checked.model.values()), path, "weights")
    return checked


def _refuse_infinite(tensors: list[Tensor], path: Path, what: str) -> None:
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    if floats and not bool(torch.stack(torch._foreach_norm(floats)).isfinite().all()):
        raise CheckpointError(f"{path} cannot be used: it holds {what} that are not finite")


def _explain(error: ValidationError | RecursionError) -> str:
    """The first problem, such as `state.step: Input should be a valid integer`."""
    if isinstance(error, RecursionError):
        return "it is nested as no checkpoint is"
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
