"""Repeating what ran out of GPU memory, such as a training step, once the loader has freed some."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgnet_mini.data.loaders import BatchLoader
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.training.device import is_out_of_memory
from imgnet_mini.training.train_state import (
    StepBuffer,
    TrainState,
    random_state,
    set_random_state,
)

T = TypeVar("T")
Batches = Iterable[tuple[Tensor, Tensor]]


def repeat_with_more_memory(
    function: Callable[[], T],
    loader: BatchLoader,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> T:
    """Call a function that restores what it changes; if GPU memory runs out, call it again.

    Before that, the loader frees what it can spare. One of several ranks cannot repeat alone.
    """
    try:
        return function()
    except RuntimeError as error:
        can_repeat = is_out_of_memory(error) and distributed.world_size == 1
        if not can_repeat or not loader.free_memory():
            raise
    return function()


class StepUndo:
    """Undoes the forward and backward passes of a step, so that it can be repeated exactly.

    One of several ranks cannot repeat a step alone.
    """

    def __init__(
        self,
        model: nn.Module,
        buffer: StepBuffer,
        optimizer: Optimizer,
        distributed: DistributedContext,
    ) -> None:
        self._tensors = [*model.buffers(), *buffer.tensors]
        self._enabled = distributed.world_size == 1
        self._optimizer = optimizer
        self._copies: list[Tensor] = []
        self._random_state: dict[str, Tensor] | None = None
        self._is_updating = False

    @torch.no_grad()
    def begin(self) -> None:
        """Remember the state before a step, without waiting for the device."""
        if not self._copies:
            self._copies = [torch.empty_like(tensor) for tensor in self._tensors]
        torch._foreach_copy_(self._copies, self._tensors)
        self._random_state = random_state()

    def begin_update(self) -> None:
        """Note that the weights change from here to the `end` of the step."""
        self._is_updating = True

    def end(self) -> None:
        """Note the end of a step."""
        self._random_state = None
        self._is_updating = False

    def is_possible(self) -> bool:
        """Return whether `undo` would undo all changes."""
        return self._enabled and not self._is_updating

    @torch.no_grad()
    def undo(self) -> None:
        """Return to the state before the step that has begun, if any."""
        if self._random_state is not None:
            torch._foreach_copy_(self._tensors, self._copies)
            set_random_state([self._random_state], 0, fallback=0)
        self._optimizer.zero_grad(set_to_none=True)
        self.end()


def take_steps(
    loader: BatchLoader, state: TrainState, take_step: Callable[[Batches], None], undo: StepUndo
) -> Generator[None]:
    """Take the remaining steps of the epoch, and yield after each.

    If GPU memory runs out, the loader frees what it can spare, and the step is repeated.
    """
    undo.end()
    while True:
        try:
            with closing(loader.epoch(state.epoch, start=state.batch)) as batches:
                for first in batches:
                    if loader.can_free_memory:
                        undo.begin()
                    take_step(chain((first,), batches))
                    undo.end()
                    yield
            return
        except RuntimeError as error:
            can_repeat = is_out_of_memory(error) and undo.is_possible()
            if not can_repeat or not loader.free_memory():
                raise
            undo.undo()
