"""Build the trainer."""

from imgnet_mini.config.run_config import ResolvedConfig
from imgnet_mini.training.optim import build_optimizer, build_scheduler
from imgnet_mini.training.setup import Setup
from imgnet_mini.training.torch_errors import translate_torch_errors
from imgnet_mini.training.trainer import Trainer


def build_trainer(
    config: ResolvedConfig, setup: Setup, *, total_steps: int | None = None
) -> Trainer:
    """Build the optimizer, the schedule and the trainer.

    total_steps: length of the schedule; None: all epochs.

    Raises:
        ConfigError: the run is too short for its schedule.
    """
    max_lr = config.schedule.max_lr
    steps = total_steps or config.schedule.epochs * len(setup.train_loader)
    with translate_torch_errors(config.data.batch_size):
        optimizer = build_optimizer(config.optimizer, setup.model, lr=max_lr)
        scheduler = build_scheduler(config.schedule, optimizer, max_lr=max_lr, total_steps=steps)
        return Trainer(
            setup.model,
            setup.criterion,
            optimizer,
            scheduler,
            setup.precision,
            total_steps=steps,
            compiled=config.runtime.compile,
            grad_accum_steps=config.data.grad_accum_steps,
            clip_grad=config.optimizer.clip_grad,
            ema_decay=config.optimizer.ema_decay,
            distributed=setup.distributed,
            hint=f"try a lower --max-lr, such as {max_lr / 2:.2g}",
        )
