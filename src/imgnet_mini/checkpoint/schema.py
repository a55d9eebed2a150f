"""Content of the checkpoint files: one model per file, shared by its writer and its readers."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import torch
from annotated_types import Len
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from imgnet_mini.checkpoint.field_types import (
    Checked,
    ClassNames,
    Digest,
    NonNegativeFiniteFloat,
    Open,
    PositiveFiniteFloat,
    Progress,
    RandomState,
    Record,
    ScalerState,
    StateDict,
    Tables,
    Text,
    TimePlan,
    Tracking,
)
from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.errors import CheckpointError
from imgnet_mini.utils.finite import all_finite

FORMAT: Final = 2
"""Raised with each change that an older version cannot read; `upgrade` reads older formats."""

T = TypeVar("T", bound=BaseModel)


class ParameterGroup(Open):
    """One group of an optimizer, under a one-cycle schedule."""

    params: list[NonNegativeInt]
    lr: NonNegativeFiniteFloat
    initial_lr: NonNegativeFiniteFloat
    max_lr: NonNegativeFiniteFloat
    min_lr: NonNegativeFiniteFloat
    weight_decay: NonNegativeFiniteFloat


class OptimizerState(Checked):
    """`state_dict` of an optimizer; names and shapes of its tensors are checked on loading."""

    state: dict[NonNegativeInt, dict[str, Tensor]]
    param_groups: Annotated[list[ParameterGroup], Len(1, 8)]


class ScheduleState(Open):
    """`state_dict` of a schedule."""

    total_steps: PositiveInt
    last_epoch: NonNegativeInt


class Environment(Open):
    """Device, versions and ranks, on which the bits of a result depend too."""

    __pydantic_extra__: dict[str, str | int]
    world_size: PositiveInt


class _Finished(Checked):
    epoch: NonNegativeInt


class Weights(Checked):
    """Fields that evaluation and inference read; a plain state dict is all `model`."""

    model: StateDict
    classes: ClassNames | None = None
    config: Tables | None = None
    images: Digest | None = None
    epoch: NonNegativeInt | None = None
    state: _Finished | None = None
    arch: str | None = None  # in a file of another program

    @property
    def network(self) -> str | None:
        """Name of the network, if the file tells it."""
        name: str | None = (self.config or {}).get("model", {}).get("arch", self.arch)
        return name

    @property
    def finished_epoch(self) -> int | None:
        """The epoch after which the weights were saved; None if unknown."""
        if self.state is not None:
            return self.state.epoch - 1 if self.state.epoch else None
        return self.epoch


class _OfRun(Checked):
    """The run that a file belongs to.

    images: digest of the image files; pack: of the pack they were read from.
    skipped, dropped, changed: see `data.run_images.RunImages`.
    class_weights: of the loss, in the order of the classes; None for none.
    """

    format: Literal[2] = 2
    config: Tables
    classes: ClassNames
    images: Digest
    skipped: dict[Text, Text] = Field(default_factory=dict)
    dropped: dict[Text, Text] = Field(default_factory=dict)
    changed: dict[Text, NonNegativeInt] = Field(default_factory=dict)
    pack: Digest | None = None
    class_weights: Annotated[list[PositiveFiniteFloat], Len(1)] | None = None
    environment: Environment

    def to_dict(self) -> Content:
        """Return tensors and plain data, without the fields that are None."""
        return {name: _to_plain(value) for name, value in self if value is not None}


class BestCheckpoint(_OfRun):
    """`best.pth`: the weights of the best epoch.

    raw: the weights that were trained, where those in `model` are their moving average.
    """

    model: StateDict
    raw: StateDict | None = None
    epoch: NonNegativeInt
    metrics: dict[str, float]


class RunCheckpoint(_OfRun):
    """`checkpoint.pth`: a run to resume.

    ema: the moving average of the weights in `model`.
    rng_of_others: of rank 1 and up.
    best: digest of best.pth.
    time_plan: of a run with `--hours`.
    tracking: `runs.tracking.TrackerRecord`, as text.
    """

    model: StateDict
    ema: StateDict | None = None
    optimizer: OptimizerState
    scheduler: ScheduleState
    scaler: ScalerState
    state: Progress
    rng: RandomState
    rng_of_others: list[RandomState] = Field(default_factory=list)
    records: list[Record]
    best: Digest | None = None
    time_plan: TimePlan | None = None
    tracking: Tracking | None = None

    @classmethod
    def read(cls, content: Content, path: Path) -> Self:
        """Check the content of a file.

        Raises:
            CheckpointError: a field is missing, wrong, or contradicts another one.
        """
        checkpoint = _validate(cls, content, path)
        for contradiction in checkpoint._contradictions():
            raise CheckpointError(f"{path} cannot be used: {contradiction}")
        _check_finite(checkpoint.model.values(), path, "weights")
        _check_finite((checkpoint.ema or {}).values(), path, "averaged weights")
        for state in checkpoint.optimizer.state.values():
            _check_finite(state.values(), path, "optimizer tensors")
        return checkpoint

    def check_position(self, path: Path, *, steps: int) -> None:
        """Check the position in a run with this many steps per epoch.

        Raises:
            CheckpointError: epoch, step and batch contradict each other.
        """
        state = self.state
        if state.batch > steps:
            raise CheckpointError(
                f"{path} cannot be used: state.batch: {state.batch}, and an epoch has {steps} steps"
            )
        if state.step != state.epoch * steps + state.batch:
            raise CheckpointError(
                f"{path} cannot be used: state.step: {state.step}, after {state.epoch} epochs of "
                f"{steps} steps and {state.batch} more"
            )

    def _contradictions(self) -> Iterator[str]:
        state, schedule = self.state, self.scheduler
        if self.ema is not None and _shapes(self.ema) != _shapes(self.model):
            yield "ema: its weights are not those of the network in model"
        phases = ("train", "val") if self.ema is None else ("train", "val", "ema")
        done = [(record.epoch, record.phase) for record in self.records]
        if len(done) != len(phases) * state.epoch or done != [
            (epoch, phase) for epoch in range(state.epoch) for phase in phases
        ]:
            yield f"records: they are not those of {state.epoch} epochs"
        if state.best_epoch >= state.epoch or (state.best_epoch < 0) != (state.best_top1 < 0):
            yield f"state.best_epoch: {state.best_epoch}, with {state.epoch} epochs done"
        if self._lacks_weights():
            yield f"class_weights: not those of {len(self.classes)} classes, or of its settings"
        if state.skipped > state.batch:
            yield f"state.skipped: {state.skipped}, after {state.batch} steps"
        if schedule.last_epoch != min(state.step, schedule.total_steps - 1):
            yield f"scheduler.last_epoch: {schedule.last_epoch}, after {state.step} steps"

    def _lacks_weights(self) -> bool:
        is_weighted = self.config.get("optimizer", {}).get("class_weights") is not None
        return len(self.class_weights or ()) != (len(self.classes) if is_weighted else 0)


def check_weights(content: Content, path: Path) -> Weights:
    """Check the content of a file of weights, as `find_weights` returns it.

    Raises:
        CheckpointError: a field is wrong.
    """
    weights = _validate(Weights, content, path)
    _check_finite(weights.model.values(), path, "weights")
    return weights


def _validate(kind: type[T], content: Content, path: Path) -> T:
    try:
        return kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be used: {_explain(error)}") from error


def _to_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    # Without unset fields, which earlier versions may not know.
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}


def _check_finite(tensors: Iterable[Tensor], path: Path, kind: str) -> None:
    if not all_finite(tensors):
        raise CheckpointError(f"{path} cannot be used: it holds {kind} that are not finite")


def _explain(error: ValidationError | RecursionError) -> str:
    """Return the first problem, such as `state.step: Input should be a valid integer`."""
    if isinstance(error, RecursionError):
        return "its nesting is too deep for a checkpoint"
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
