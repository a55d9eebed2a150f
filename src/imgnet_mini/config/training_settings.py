"""Settings of the network, the optimizer, the schedule and the learning rate finder."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self

from annotated_types import Ge, Gt, Lt
from pydantic import model_validator

from imgnet_mini.config.fields import (
    Count,
    EmaDecay,
    Formerly,
    MaxLr,
    UsedBy,
    WeightDecay,
)
from imgnet_mini.config.section import Section
from imgnet_mini.errors import ConfigError

_WEIGHT_DECAY_SHARE: Final = 0.15
"""Of the training steps: the time in which weights would decay to 1/e at the peak learning rate."""

_MIN_DECAY_STEPS: Final = 5000
"""Least of the above in SGD; measured where training overfits, in trainings of 5,400 steps."""

_EMA_SHARE: Final = 0.03
"""Of the training steps: the time over which the weights are averaged."""

_MIN_AUTO_STEPS: Final = 67
"""Shorter trainings average the weights over less than 2 steps. In them, AdamW and Muon would decay
weights within 10."""


class ModelConfig(Section):
    """The network."""

    arch: str = "resnet50"
    """Name of a torchvision classification model."""

    zero_init_residual: Annotated[bool, Formerly("zero_init")] = False
    """Initialize the last batch norm of each residual block to zero (ResNets only)."""

    blur_pool: bool = False
    """Blur before each layer that skips pixels, so that small shifts matter less (ResNets only)."""

    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of dropping a feature before the classifier in training; 0: off."""


class OptimizerConfig(Section):
    """Loss, optimizer and weight averaging."""

    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """SGD, AdamW, or Muon on the weight matrices of hidden layers with AdamW on the rest."""

    momentum: Annotated[float, Ge(0), Lt(1), UsedBy(("sgd",))] = 0.9
    """Momentum of SGD."""

    nesterov: Annotated[bool, UsedBy(("sgd",))] = False
    """Use Nesterov momentum in SGD."""

    adam_beta1: Annotated[float, Ge(0), Lt(1), UsedBy(("adamw", "muon"))] = 0.9
    """AdamW: decay rate of the average gradient."""

    adam_beta2: Annotated[float, Ge(0), Lt(1), UsedBy(("adamw", "muon"))] = 0.999
    """AdamW: decay rate of the average squared gradient."""

    adam_eps: Annotated[float, Gt(0), UsedBy(("adamw", "muon"))] = 1e-8
    """AdamW: term added to the denominator."""

    muon_momentum: Annotated[float, Ge(0), Lt(1), UsedBy(("muon",))] = 0.95
    """Momentum of Muon."""

    weight_decay: WeightDecay = 1e-4
    """Weight decay; in SGD an L2 penalty, in AdamW and Muon decoupled (0.01 to 0.1 is common);
    auto: 1 / (peak learning rate x 0.15 of the training steps), in SGD at most 1 / (peak learning
    rate x 5000)."""

    norm_decay: bool = True
    """Apply weight decay to normalization layers and biases too."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Label smoothing of the cross-entropy loss."""

    class_weights: Literal["balanced"] | str | None = None
    """Weights of the classes in the loss: balanced (rare classes weigh more), or a CSV or JSON file
    of class names and weights; unset: all the same."""

    clip_grad: Annotated[float | None, Gt(0), Formerly("clip_norm")] = None
    """Clip gradients to this global norm; unset: no clipping."""

    ema_decay: Annotated[EmaDecay, Formerly("ema")] = 0.0
    """Decay of an exponential moving average of the weights, used for validation; 0: off; auto: an
    average over about 0.03 of the training steps."""

    def resolve(self, max_lr: float, steps: int | None) -> "ResolvedOptimizer":
        """Return a copy whose `auto` decays are those of a training of so many steps.

        Weight decay acts over 1 / (learning rate x decay) steps, so it is set by the share of the
        training that this is at the peak (Wang and Aitchison 2024, arXiv:2405.13698); but SGD needs
        some thousand steps. As its steps are 1 / (1 - momentum) times the learning rate, the number
        is meant for a momentum of 0.9; with another one, decay acts over as many steps.

        Raises:
            ValueError: the training is too short for it, or `steps` is missing.
        """
        values = self.model_dump(exclude_unset=True)
        automatic = [name for name in ("weight_decay", "ema_decay") if values.get(name) == "auto"]
        is_sgd = self.optimizer == "sgd"
        if automatic:
            if steps is None:
                raise ValueError(f"{automatic[0]} auto needs the number of training steps")
            short = [name for name in automatic if name == "ema_decay" or not is_sgd]
            if short and steps < _MIN_AUTO_STEPS:
                raise ValueError(
                    f"--{short[0].replace('_', '-')} auto needs a training of "
                    f"{_MIN_AUTO_STEPS} steps or more, and this one has {steps}: set a number"
                )
            decay_steps = _WEIGHT_DECAY_SHARE * steps
            if is_sgd:
                decay_steps = max(decay_steps, _MIN_DECAY_STEPS) * 0.1 / (1 - self.momentum)
            decays = {
                "weight_decay": 1 / (max_lr * decay_steps),
                "ema_decay": 1 - 1 / (_EMA_SHARE * steps),
            }
            values |= {name: decays[name] for name in automatic}
        return ResolvedOptimizer.model_validate(values)

    def in_use(self) -> dict[str, Any]:
        """Return the settings that this optimizer has, by name."""
        return self.model_dump(exclude={name for name, _ in self._foreign()})

    def _foreign(self) -> Iterator[tuple[str, UsedBy]]:
        """Yield the settings that only other optimizers have."""
        for name, field in type(self).model_fields.items():
            for data in field.metadata:
                if isinstance(data, UsedBy) and self.optimizer not in data.optimizers:
                    yield name, data

    @model_validator(mode="after")
    def _check_optimizer(self) -> Self:
        for name, used_by in self._foreign():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                flag = name.replace("_", "-")
                cure = f"use --no-{flag}" if value is True else f"leave --{flag} out"
                owners = " or ".join(used_by.optimizers)
                raise ValueError(
                    f"--{flag} is a setting of --optimizer {owners}, and this run uses "
                    f"{self.optimizer}: {cure}, or choose --optimizer {owners}"
                )
        if self.nesterov and not self.momentum:
            raise ValueError(
                "--nesterov requires a --momentum above 0, such as 0.9, and it is 0: raise it, or "
                "leave --nesterov out"
            )
        return self


class ResolvedOptimizer(OptimizerConfig):
    """Loss, optimizer and weight averaging, with all decays as numbers."""

    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """Weight decay."""

    ema_decay: Annotated[float, Ge(0), Lt(1), Formerly("ema")] = 0.0
    """Decay of the average of the weights."""


class ScheduleConfig(Section):
    """Length of the training and one-cycle learning rate schedule."""

    epochs: Count = 20
    """Number of passes over the training images."""

    hours: Annotated[float | None, Gt(0)] = None
    """Train for as many epochs as fit into this time, from measured speed, instead of epochs."""

    max_lr: MaxLr = None
    """Peak learning rate; auto: the latest from find-lr; unset: 0.1 x batch size / 256 for SGD, and
    0.001 x sqrt(batch size / 256) for AdamW and Muon."""

    pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Fraction of the training steps in which the learning rate rises."""

    div_factor: Annotated[float, Ge(1)] = 25.0
    """Initial learning rate: the peak divided by this."""

    final_div_factor: Annotated[float, Ge(1)] = 1e4
    """Final learning rate: the initial one divided by this."""

    def in_use(self) -> dict[str, Any]:
        """Return the settings by name, without the number of epochs where hours decide it."""
        return self.model_dump(exclude={"epochs"} if self.hours is not None else None)


class ResolvedSchedule(ScheduleConfig):
    """The schedule with its peak learning rate as a number."""

    max_lr: Annotated[float, Gt(0)]
    """Peak learning rate."""


def check_one_length(typed: dict[str, Any]) -> None:
    """Check that the length of a training is typed as epochs or as hours.

    typed: values of the section.

    Raises:
        ConfigError: it is typed as both.
    """
    epochs, hours = typed.get("epochs"), typed.get("hours")
    if epochs is not None and hours is not None:
        raise ConfigError(f"--epochs {epochs} and --hours {hours}: choose one of the two")


def drop_hours(tables: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings without `hours` if changes, which may be anything, set epochs alone."""
    schedule = changes.get("schedule")
    if isinstance(schedule, dict) and "epochs" in schedule and "hours" not in schedule:
        tables.get("schedule", {}).pop("hours", None)
    return tables


class FinderConfig(Section):
    """Learning rate range test, and short trial trainings after it."""

    budget: Annotated[float, Gt(0)] = 0.1
    """Images to spend at most, range test included, as a fraction of those of the training."""

    max_minutes: Annotated[float | None, Gt(0)] = None
    """Time limit in minutes; unset: none."""

    start_lr: Annotated[float | None, Gt(0)] = None
    """Learning rate of the first step; unset: the optimizer's default peak / 25."""

    end_lr: Annotated[float | None, Gt(0)] = None
    """Learning rate of the last step; unset: 64 x the optimizer's default peak."""

    num_iter: Annotated[int, Ge(2)] = 100
    """Maximum steps of the range test; the learning rate rises exponentially."""

    trials: Annotated[int, Ge(0)] = 5
    """Maximum number of short trainings that compare peak learning rates; 0: range test only."""

    trial_steps: Annotated[int | None, Ge(20)] = None
    """Steps of each trial, a whole one-cycle schedule; unset: as many as the budget allows."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.start_lr and self.end_lr and self.end_lr <= self.start_lr:
            raise ValueError(f"end_lr ({self.end_lr}) must be above start_lr ({self.start_lr})")
        return self

    def resolve(self, default_lr: float, steps: int) -> "ResolvedFinder":
        """Return a copy with the bounds of a range test of `steps` steps.

        default_lr: peak of the optimizer where none is set.
        """
        start = self.start_lr or min(default_lr, self.end_lr or math.inf) / 25
        end = self.end_lr or 64 * max(default_lr, start)
        bounds = {"start_lr": start, "end_lr": end, "num_iter": steps}
        return ResolvedFinder.model_validate(self.model_dump() | bounds)


class ResolvedFinder(FinderConfig):
    """The settings of find-lr with the bounds of its range test as numbers."""

    start_lr: Annotated[float, Gt(0)]
    """Learning rate of the first step."""

    end_lr: Annotated[float, Gt(0)]
    """Learning rate of the last step."""

    num_iter: Annotated[int, Ge(0)]
    """Steps of the range test."""
