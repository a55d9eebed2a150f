"""The loss, SGD, and the one-cycle learning rate."""

from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from imgnet_mini.errors import ConfigError
from imgnet_mini.sections import OptimizerConfig, ScheduleConfig

RATES = ("initial_lr", "max_lr", "min_lr")
"""Where OneCycleLR keeps the corners of its curve, in each group of the optimizer."""


def linear_rule(batch_size: int) -> float:
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
        model.parameters(),
        lr=lr,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        fused=True,
    )
    if optimizer.momentum:
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


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


def load_schedule(scheduler: OneCycleLR, saved: dict[str, Any]) -> None:
    """Load what a schedule has saved, by another version of torch perhaps.

    Raises:
        ValueError: it is not that of a schedule of this length.
    """
    own = vars(scheduler)
    known = {name: value for name, value in saved.items() if name in own}
    wrong = [name for name, value in known.items() if type(value) is not type(own[name])]
    if wrong or known.get("total_steps") != scheduler.total_steps or "last_epoch" not in known:
        raise ValueError(f"a schedule of {saved.get('total_steps')} steps {wrong}".rstrip(" []"))
    scheduler.load_state_dict(known)


def load_under_new_plan(
    optimizer: SGD, scheduler: OneCycleLR, saved: dict[str, Any], *, step: int
) -> None:
    """Load what an optimizer has saved, but not its rates: those of a fresh schedule follow.

    step: where the run stands; the rate is then that of a run with this schedule from its start.
    """
    rates = [{name: group[name] for name in RATES} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, fresh in zip(optimizer.param_groups, rates, strict=True):
        group.update(fresh)
    scheduler.load_state_dict({"last_epoch": step - 1, "_step_count": max(2, step)})
    scheduler.step()
