"""Types of the fields of checkpoint files."""

from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import (
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
