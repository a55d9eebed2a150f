"""The loss, SGD, and the one-cycle learning rate."""

import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from imgnet_mini.config.settings import OptimizerConfig, ScheduleConfig
from imgnet_mini.errors import ConfigError

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""The rate, and where OneCycleLR keeps the corners of its curve, in a group of the optimizer."""


def linear_scaling_lr(batch_size: int) -> float:
    """0.1 per 256 images of the batch (Goyal et al. 2017, arXiv:1706.02677)."""
    return 0.1 * batch_size / 256


def build_loss(optimizer: OptimizerConfig) -> nn.CrossEntropyLoss:
    """Cross-entropy with smoothed labels, the mean over a batch."""
    return nn.CrossEntropyLoss(label_smoothing=optimizer.label_smoothing)


def build_optimizer(optimizer: OptimizerConfig, model: nn.Module, *, lr: float) -> SGD:
    """SGD; fused, since only then gradient scaling does not wait for the device.

    Momentum starts as zeros, from which the first step makes what it would without any. Left to
    torch, it would stay unwritten memory where that step is skipped for gradients that overflow.
    """
    sgd = SGD(
        parameter_groups(optimizer, model),
        lr=lr,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        nesterov=optimizer.nesterov,
        fused=True,
    )
    if optimizer.momentum:
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def parameter_groups(optimizer: OptimizerConfig, model: nn.Module) -> list[dict[str, Any]]:
    """All parameters in one group; without `norm_decay`, norms and biases in a second one.

    Those are what has one dimension or none (Jia et al. 2018, arXiv:1807.11205, section 3.2).
    """
    parameters = list(model.parameters())
    if optimizer.norm_decay:
        return [{"params": parameters}]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]


def build_scheduler(
    schedule: ScheduleConfig, optimizer: SGD, *, max_lr: float, total_steps: int
) -> OneCycleLR:
    """One rise and fall of the rate (Smith and Topin, arXiv:1708.07120); momentum stays as set.

    Raises:
        ConfigError: the rate would rise for a step or less.
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


def load_optimizer(optimizer: SGD, saved: dict[str, Any], *, step: int) -> None:
    """Load the momentum that an optimizer has saved, and nothing else: its numbers are settings.

    Raises:
        ValueError: it is that of other parameters.
    """
    own = optimizer.state_dict()
    groups = own["param_groups"]
    members = [group["params"] for group in groups]
    if [group["params"] for group in saved["param_groups"]] != members:
        raise ValueError("optimizer.param_groups: they are those of other parameters")
    if step and groups[0]["momentum"] and saved["state"].keys() != set(chain(*members)):
        raise ValueError("optimizer.state: it is that of other parameters")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for parameter, state in optimizer.state.items():
        momentum = state["momentum_buffer"]
        if momentum is not None and momentum.shape != parameter.shape:
            raise ValueError(f"optimizer.state: a momentum of shape {tuple(momentum.shape)}")


def momentum_buffers(optimizer: SGD) -> list[Tensor]:
    """The momentum of each parameter that has some."""
    found = [state["momentum_buffer"] for state in optimizer.state.values()]
    return [momentum for momentum in found if momentum is not None]


def fast_forward(scheduler: OneCycleLR, *, step: int) -> None:
    """Bring a fresh schedule to where it is after so many steps; it does not go beyond its end."""
    last = min(step, scheduler.total_steps - 1)
    if last:
        scheduler.load_state_dict({"last_epoch": last - 1, "_step_count": 2})
        scheduler.step()
        scheduler.load_state_dict({"_step_count": last + 1})


def check_same_settings(
    optimizer: SGD, scheduler: OneCycleLR, saved: dict[str, Any], saved_schedule: dict[str, Any]
) -> None:
    """Compare what was saved with an optimizer and a schedule that stand at the same step.

    Raises:
        ValueError: a number is another one; names it.
    """
    total = saved_schedule["total_steps"]
    if total != scheduler.total_steps:
        raise ValueError(
            f"scheduler.total_steps: {total}, and by the settings it is {scheduler.total_steps}"
        )
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    for place, (before, now) in enumerate(groups):
        for name in (*RATES, "momentum", "weight_decay"):
            if not math.isclose(before[name], now[name], rel_tol=1e-6):  # torch may round otherwise
                raise ValueError(
                    f"optimizer.param_groups.{place}.{name}: {before[name]:g}, and by the settings "
                    f"it is {now[name]:g}"
                )
