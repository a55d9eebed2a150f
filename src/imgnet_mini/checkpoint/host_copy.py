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


def copy_to_host(state: State) -> HostCopy:
    """Copy all tensors of a state; those of a GPU to pinned memory, without waiting for it.

    Later work on the GPU's current stream may change the originals: the copies come first.
    """
    devices = {tensor.device for tensor in _tensors(state)}
    copied = _copy(state)
    gpu = next((device for device in devices if device.type == "cuda"), None)
    if gpu is None:
        return HostCopy(copied)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(gpu))
    return HostCopy(copied, event)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [tensor for item in items for tensor in _tensors(item)]
    return [value] if isinstance(value, Tensor) else []


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.is_cuda:
            pinned = torch.empty_like(value, device="cpu", pin_memory=True)
            return pinned.copy_(value, non_blocking=True)
        return value.clone() if value.is_cpu else value.cpu()
    if isinstance(value, dict):
        copied = copy.copy(value)  # with the version metadata of a module's state
        copied.update({key: _copy(item) for key, item in value.items()})
        return copied
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
