"""The loss, SGD, and the one-cycle learning rate."""

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from imgnet_mini.errors import ConfigError
from imgnet_mini.sections import OptimizerConfig, ScheduleConfig


def linear_rule(batch_size: int) -> float:
    """0.1 per 256 images of the batch (Goyal et al. 2017, arXiv:1706.02677)."""
    return 0.1 * batch_size / 256


def build_loss(optimizer: OptimizerConfig) -> nn.CrossEntropyLoss:
    """Cross-entropy with smoothed labels, the mean over a batch."""
    return nn.CrossEntropyLoss(label_smoothing=optimizer.label_smoothing)


def build_optimizer(optimizer: OptimizerConfig, model: nn.Module, *, lr: float) -> SGD:
    """SGD; fused, since only then gradient scaling does not wait for the device."""
    return SGD(
        model.parameters(),
        lr=lr,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        fused=True,
    )


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
