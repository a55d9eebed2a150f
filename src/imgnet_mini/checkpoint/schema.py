"""What a checkpoint has to hold, field by field."""

from collections.abc import Iterator
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
    PositiveInt,
    ValidationError,
)
from torch import Tensor

from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.errors import CheckpointError
from imgnet_mini.utils.finite import all_finite

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = InstanceOf[str]
"""Also names whose bytes are no UTF-8; a `str` of pydantic holds none."""
ClassName = Annotated[Text, Len(1, 255)]
NonNegativeFiniteFloat = Annotated[FiniteFloat, Field(ge=0)]
Percent = Annotated[FiniteFloat, Field(ge=-1, le=100)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="ignore")


class _Known(_Checked):
    """What is taken over as it is, so that nothing else may be in it."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _State(_Known):
    epoch: NonNegativeInt
    step: NonNegativeInt
    batch: NonNegativeInt
    lr: FiniteFloat
    loss_sum: FiniteFloat
    top1: NonNegativeInt
    top5: NonNegativeInt
    seconds: FiniteFloat
    best_top1: Percent
    best_epoch: Annotated[int, Field(ge=-1)]


class _Record(_Known):
    epoch: NonNegativeInt
    phase: Literal["train", "val", "ema"]
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
    state: dict[NonNegativeInt, dict[Literal["momentum_buffer"], Tensor | None]]
    param_groups: Annotated[list[_Group], Len(1, 2)]
    """A second one holds what weight decay is not for."""


class _Schedule(_Checked):
    total_steps: PositiveInt
    last_epoch: NonNegativeInt


Scaling = Literal["scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"]


class _Weights(_Checked):
    """What `evaluate` needs; a file of another tool has none of the fields below the first."""

    model: dict[str, Tensor]
    classes: Annotated[list[ClassName], Len(1, 100_000)] | None = None
    config: dict[str, dict[str, Any]] | None = None
    epoch: NonNegativeInt | None = None
    state: _State | None = None


class _Run(_Weights):
    """What `resume` needs."""

    ema: dict[str, Tensor] | None = None
    """The average of the weights in `model`."""
    optimizer: _Optimizer
    scheduler: _Schedule
    scaler: dict[Scaling, NonNegativeFiniteFloat]
    state: _State
    rng: dict[Literal["cpu", "cuda"], Tensor]
    rng_of_others: list[dict[Literal["cpu", "cuda"], Tensor]] = []
    """Of rank 1 and up."""
    records: list[_Record]
    config: dict[str, dict[str, Any]]
    classes: Annotated[list[ClassName], Len(1, 100_000)]
    environment: dict[str, str | int]
    images: Digest
    skipped: dict[Text, Text] = {}
    pack: Digest | None
    best: Digest | None = None
    """Of best.pth."""


T = TypeVar("T", bound=_Weights)


def check_run(content: Content, path: Path) -> Content:
    """The content of a checkpoint that can be resumed.

    Raises:
        CheckpointError: a field is missing, wrong, or contradicts another one; names it.
    """
    if "train_fingerprint" in content:
        raise CheckpointError(
            f"{path} was saved by version 0.1.0, whose runs cannot be resumed: finish the run with "
            "that version, or start it again with train --overwrite"
        )
    run = _check(_Run, content, path)
    for contradiction in _contradictions(run):
        raise CheckpointError(f"{path} cannot be used: {contradiction}")
    _check_finite(list((run.ema or {}).values()), path, "averaged weights")
    momentum_buffers = [m for state in run.optimizer.state.values() for m in state.values()]
    _check_finite([m for m in momentum_buffers if m is not None], path, "momentum")
    return content


def check_place(content: Content, path: Path, *, steps: int) -> None:
    """See to it that a checkpoint knows where it is, in epochs of so many steps.

    Raises:
        CheckpointError: its numbers contradict one another; names one.
    """
    epoch, step, batch = (content["state"][name] for name in ("epoch", "step", "batch"))
    if batch > steps:
        raise CheckpointError(
            f"{path} cannot be used: state.batch: {batch}, and an epoch has {steps} steps"
        )
    if step != epoch * steps + batch:
        raise CheckpointError(
            f"{path} cannot be used: state.step: {step}, after {epoch} epochs of {steps} steps and "
            f"{batch} more"
        )


def _contradictions(run: _Run) -> Iterator[str]:
    state, schedule = run.state, run.scheduler
    if run.ema is not None and _shapes(run.ema) != _shapes(run.model):
        yield "ema: its weights are not those of the network in model"
    phases = ("train", "val") if run.ema is None else ("train", "val", "ema")
    done = [(record.epoch, record.phase) for record in run.records]
    if len(done) != len(phases) * state.epoch or done != [
        (epoch, phase) for epoch in range(state.epoch) for phase in phases
    ]:
        yield f"records: they are not those of {state.epoch} epochs"
    if state.best_epoch >= state.epoch or (state.best_epoch < 0) != (state.best_top1 < 0):
        yield f"state.best_epoch: {state.best_epoch}, with {state.epoch} epochs done"
    if schedule.last_epoch != min(state.step, schedule.total_steps - 1):
        yield f"scheduler.last_epoch: {schedule.last_epoch}, after {state.step} steps"


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
    _check_finite(list(checked.model.values()), path, "weights")
    return checked


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}


def _check_finite(tensors: list[Tensor], path: Path, what: str) -> None:
    if not all_finite(tensors):
        raise CheckpointError(f"{path} cannot be used: it holds {what} that are not finite")


def _explain(error: ValidationError | RecursionError) -> str:
    """The first problem, such as `state.step: Input should be a valid integer`."""
    if isinstance(error, RecursionError):
        return "it is nested as no checkpoint is"
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
