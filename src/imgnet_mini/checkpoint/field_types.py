"""Types of the fields of checkpoint files."""

from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    InstanceOf,
    NonNegativeInt,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from torch import Tensor


def _keep(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


StateDict = Annotated[dict[str, Tensor], WrapValidator(_keep)]
"""As torch made it, with its version metadata."""
Tracking = Annotated[str, Field(pattern="^[a-z]{1,20}:[A-Za-z0-9._-]{1,100}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = InstanceOf[str]
"""Also names whose bytes are not UTF-8, which pydantic's own `str` refuses."""
ClassNames = Annotated[list[Annotated[Text, Len(1, 255)]], Len(1, 100_000)]
Tables = dict[str, dict[str, Any]]
RandomState = dict[Literal["cpu", "cuda"], Tensor]
NonNegativeFiniteFloat = Annotated[FiniteFloat, Field(ge=0)]
PositiveFiniteFloat = Annotated[FiniteFloat, Field(gt=0)]
Percent = Annotated[FiniteFloat, Field(ge=-1, le=100)]
ScalerState = dict[
    Literal["scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"],
    NonNegativeInt | NonNegativeFiniteFloat,
]


class Checked(BaseModel):
    """Types are strict; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="ignore")


class Exact(Checked):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Open(Checked):
    """Keeps fields that are not listed: numbers of torch, which nothing is computed from."""

    model_config = ConfigDict(extra="allow")


class Progress(Exact):
    """The fields of `training.train_state.TrainState`."""

    epoch: NonNegativeInt
    step: NonNegativeInt
    batch: NonNegativeInt
    lr: FiniteFloat
    loss_sum: FiniteFloat
    top1: NonNegativeInt
    top5: NonNegativeInt
    seconds: FiniteFloat
    skipped: NonNegativeInt = 0
    best_top1: Percent
    best_epoch: Annotated[int, Field(ge=-1)]


class TimePlan(Exact):
    """The fields of `training.hours.TimePlan`."""

    small_step: PositiveFiniteFloat
    full_step: PositiveFiniteFloat
    validation: PositiveFiniteFloat
    elapsed: NonNegativeFiniteFloat
    replanned: bool


class Record(Exact):
    """The fields of `runs.records.EpochRecord`."""

    epoch: NonNegativeInt
    phase: Literal["train", "val", "ema"]
    loss: FiniteFloat
    top1: Percent
    top5: Percent
    lr: FiniteFloat
    imgs_per_sec: FiniteFloat
