"""A copy of a state in host memory, to be saved while training goes on."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]


@dataclass(frozen=True)
class HostCopy:
    """A state whose tensors are on the CPU; they are complete after `wait`."""

    state: State
    _copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Wait until the GPU has copied its tensors."""
        if self._copied is not None:
            self._copied.synchronize()


class HostCopier:
    """Copies states into the same memory each time: new memory takes longer than the copy.

    A copy is valid until the next one is made.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def copy(self, state: State) -> HostCopy:
        """Copy all tensors of a state; those of a GPU to pinned memory, without waiting for it.

        Later work on the GPU's current stream may change the originals: the copies come first.
        """
        gpus: set[torch.device] = set()
        copied = self._copy(state, (), gpus)
        if not gpus:
            return HostCopy(copied)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(gpus.pop()))
        return HostCopy(copied, event)

    def _copy(self, value: Any, place: tuple[Any, ...], gpus: set[torch.device]) -> Any:
        if isinstance(value, Tensor):
            if value.is_cuda:
                gpus.add(value.device)
            return self._memory(value, place).copy_(value, non_blocking=value.is_cuda)
        if isinstance(value, dict):
            copied = copy.copy(value)  # with the version metadata of a module's state
            for key, item in value.items():
                copied[key] = self._copy(item, (*place, key), gpus)
            return copied
        if isinstance(value, list):
            return [self._copy(item, (*place, n), gpus) for n, item in enumerate(value)]
        return value

    def _memory(self, tensor: Tensor, place: tuple[Any, ...]) -> Tensor:
        """Return the memory of the tensor at this place of a state."""
        memory = self._tensors.get(place)
        if memory is None or (memory.shape, memory.dtype) != (tensor.shape, tensor.dtype):
            memory = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._tensors[place] = memory
        return memory
