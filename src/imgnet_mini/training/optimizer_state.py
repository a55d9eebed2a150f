"""Saved state of optimizers and schedules: only tensors are loaded, all numbers are settings."""

import math
import warnings
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR


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
