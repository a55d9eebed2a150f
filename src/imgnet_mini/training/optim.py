"""Loss, optimizers and the one-cycle schedule: building them, and loading their saved state.

An optimizer is one entry of `OPTIMIZERS`, and its settings in `OptimizerConfig`. Of a saved state
only tensors are loaded: all numbers are settings.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from imgnet_mini.config.training_settings import OptimizerConfig, ResolvedOptimizer, ScheduleConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.class_weights import WeightedCrossEntropyLoss
from imgnet_mini.training.muon import MuonAdamW, hidden_weights, initial_state, state_names

Group = dict[str, Any]
"""Parameters under `params`, and the hyper-parameters that are theirs alone."""


@dataclass(frozen=True)
class OptimizerEntry:
    """One choice of `--optimizer`.

    build: makes the optimizer from its settings, its groups and a learning rate.
    groups: splits the parameters of a model.
    state_names: of a group: the tensors that are kept for each of its parameters.
    default_lr: from a batch size to the peak learning rate where none is set.
    lr_rule: that rule in words.
    """

    build: Callable[[ResolvedOptimizer, list[Group], float], Optimizer]
    groups: Callable[[ResolvedOptimizer, nn.Module], list[Group]]
    state_names: Callable[[Group], tuple[str, ...]]
    default_lr: Callable[[int], float]
    lr_rule: str


def linear_scaling_lr(batch_size: int) -> float:
    """Return 0.1 per 256 images of the batch (Goyal et al. 2017, arXiv:1706.02677)."""
    return 0.1 * batch_size / 256


def sqrt_scaling_lr(batch_size: int) -> float:
    """Return 0.001 at 256 images, scaled by the root of the batch size.

    0.001 is the default of Adam (Kingma and Ba 2015, arXiv:1412.6980), a conservative choice; the
    root is the scaling rule of adaptive optimizers (Malladi et al. 2022, arXiv:2205.10287).
    """
    return 1e-3 * math.sqrt(batch_size / 256)


def decay_groups(
    settings: ResolvedOptimizer, parameters: Sequence[Tensor], **group_settings: Any
) -> list[Group]:
    """Return one group; without `norm_decay`, norms and biases in a second one without decay.

    Those are the parameters of at most one dimension (Jia et al. 2018, arXiv:1807.11205, 3.2).
    """
    if settings.norm_decay:
        return [{"params": list(parameters), **group_settings}]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"params": decayed, **group_settings},
        {"params": others, "weight_decay": 0.0, **group_settings},
    ]


def _all_parameters(settings: ResolvedOptimizer, model: nn.Module) -> list[Group]:
    return decay_groups(settings, list(model.parameters()))


def _muon_groups(settings: ResolvedOptimizer, model: nn.Module) -> list[Group]:
    hidden = hidden_weights(model)
    taken = {id(weight) for weight in hidden}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return [{"params": hidden, "use_muon": True}, *decay_groups(settings, rest, use_muon=False)]


def _build_sgd(settings: ResolvedOptimizer, groups: list[Group], lr: float) -> Optimizer:
    return SGD(
        groups,
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


def _build_adamw(settings: ResolvedOptimizer, groups: list[Group], lr: float) -> Optimizer:
    return AdamW(
        groups,
        lr=lr,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _build_muon(settings: ResolvedOptimizer, groups: list[Group], lr: float) -> Optimizer:
    return MuonAdamW(
        groups,
        lr=lr,
        momentum=settings.muon_momentum,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
    )


OPTIMIZERS: Final = {
    "sgd": OptimizerEntry(
        build=_build_sgd,
        groups=_all_parameters,
        state_names=lambda group: ("momentum_buffer",) if group["momentum"] else (),
        default_lr=linear_scaling_lr,
        lr_rule="0.1 x batch size / 256",
    ),
    "adamw": OptimizerEntry(
        build=_build_adamw,
        groups=_all_parameters,
        state_names=lambda _: ("step", "exp_avg", "exp_avg_sq"),
        default_lr=sqrt_scaling_lr,
        lr_rule="0.001 x sqrt(batch size / 256)",
    ),
    "muon": OptimizerEntry(
        build=_build_muon,
        groups=_muon_groups,
        state_names=state_names,
        default_lr=sqrt_scaling_lr,  # its updates have the size of AdamW's
        lr_rule="0.001 x sqrt(batch size / 256)",
    ),
}


def build_loss(
    settings: OptimizerConfig, class_weights: Tensor | None = None
) -> nn.CrossEntropyLoss:
    """Return cross-entropy with label smoothing, averaged over the images of a batch."""
    if class_weights is None:
        return nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    return WeightedCrossEntropyLoss(class_weights, label_smoothing=settings.label_smoothing)


def build_optimizer(settings: ResolvedOptimizer, model: nn.Module, *, lr: float) -> Optimizer:
    """Return the optimizer that the settings choose, with its state filled with zeros.

    Optimizers are fused: only then does gradient scaling not wait for the device. Left to torch,
    the momentum of fused SGD would stay uninitialized where the first step is skipped for
    gradients that overflow; and a state that is complete from the start can be checked on load.

    Raises:
        ConfigError: this torch does not have the optimizer.
    """
    entry = OPTIMIZERS[settings.optimizer]
    optimizer = entry.build(settings, entry.groups(settings, model), lr)
    for group in optimizer.param_groups:
        names = entry.state_names(group)
        for parameter in group["params"] if names else ():
            optimizer.state[parameter] = initial_state(names, parameter)
    return optimizer


def build_scheduler(
    schedule: ScheduleConfig, optimizer: Optimizer, *, max_lr: float, total_steps: int
) -> OneCycleLR:
    """Return a one-cycle schedule (Smith and Topin, arXiv:1708.07120); momentum stays as set.

    Raises:
        ConfigError: the learning rate would rise for one step or less.
    """
    if schedule.pct_start * total_steps <= 1:
        raise ConfigError(
            f"a run of {total_steps} step(s) is too short for a one-cycle schedule that rises for "
            f"{schedule.pct_start:g} of it: use more --epochs, a smaller --batch-size or a larger "
            "--pct-start"
        )
    return OneCycleLR(
        optimizer,
        max_lr,
        total_steps=total_steps,
        pct_start=schedule.pct_start,
        div_factor=schedule.div_factor,
        final_div_factor=schedule.final_div_factor,
        cycle_momentum=False,
    )


def state_tensors(optimizer: Optimizer) -> list[Tensor]:
    """Return all tensors that the optimizer keeps for its parameters."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in values if isinstance(value, Tensor)]


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load the tensors of a saved `Optimizer.state_dict`; the hyper-parameters stay.

    Raises:
        ValueError: they belong to other parameters or to another optimizer.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [g["params"] for g in groups]:
        raise ValueError("optimizer.param_groups: the saved groups hold other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        _check_state(index, parameter, optimizer.state.get(parameter), saved["state"].get(index))
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def _check_state(
    index: int,
    parameter: Tensor,
    expected: dict[str, Tensor] | None,
    saved: dict[str, Tensor] | None,
) -> None:
    place = f"optimizer.state.{index}"
    if expected is not None and (saved or {}).keys() != expected.keys():
        raise ValueError(
            f"{place}: has {', '.join(saved or ()) or 'nothing'}, but this optimizer keeps "
            f"{', '.join(expected)}"
        )
    for name, tensor in (saved or {}).items():
        shapes = [expected[name].shape] if expected is not None else [parameter.shape, ()]
        if tensor.shape not in shapes:
            raise ValueError(
                f"{place}.{name}: has shape {tuple(tensor.shape)}, but its parameter has "
                f"{tuple(parameter.shape)}"
            )


def fast_forward(scheduler: LRScheduler, step: int) -> None:
    """Bring a fresh schedule to the learning rate that follows this many steps."""
    if not step:
        return
    with warnings.catch_warnings():
        # A fresh optimizer has taken no step yet, of which torch warns.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        if isinstance(scheduler, OneCycleLR):  # a closed form: no need to walk through all steps
            scheduler.load_state_dict({"last_epoch": step - 1, "_step_count": step})
            scheduler.step()
        else:
            for _ in range(step):
                scheduler.step()


def check_same_plan(optimizer: Optimizer, scheduler: LRScheduler, saved: dict[str, Any]) -> None:
    """Compare hyper-parameters and length of the schedule with those of a saved state.

    Raises:
        ValueError: a number differs.
    """
    check_same_settings(optimizer, saved["optimizer"])
    check_same_length(scheduler, saved["scheduler"])


def check_same_settings(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Compare the hyper-parameters of an optimizer with saved ones, taken after the same step.

    Raises:
        ValueError: a number differs.
    """
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    for place, (before, now) in enumerate(groups):
        for name, value in now.items():
            if isinstance(value, float | tuple) and not _is_close(before[name], value):
                raise ValueError(
                    f"optimizer.param_groups.{place}.{name}: {_text(before[name])}, and by the "
                    f"settings it is {_text(value)}"
                )


def check_same_length(scheduler: LRScheduler, saved: dict[str, Any]) -> None:
    """Compare the number of steps of a schedule with a saved one.

    Raises:
        ValueError: they differ.
    """
    before, now = saved.get("total_steps"), getattr(scheduler, "total_steps", None)
    if before != now:
        raise ValueError(f"scheduler.total_steps: {before}, and by the settings it is {now}")


def _is_close(before: Any, now: float | tuple[float, ...]) -> bool:
    if isinstance(now, tuple):
        return len(before) == len(now) and all(map(_is_close, before, now))
    return math.isclose(before, now, rel_tol=1e-6)  # another torch may round differently


def _text(value: float | tuple[float, ...]) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
