"""A CUDA device that computes nothing, for a machine without one: torch's FakeTensorMode, and a log
of all that a program asks of the device and of what would make the host wait for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

GIB = 2**30

HOST_READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
}
"""Operations whose result the host needs: a value, or a shape that depends on values."""

STREAMS = ("compute", "copy")

COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


def waits_for_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation on tensors of a GPU makes the host wait for it."""
    if func in HOST_READS:
        return True
    if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    if func is torch.ops.aten._to_copy.default:
        target = kwargs.get("device") or args[0].device
        return torch.device(target).type != args[0].device.type and not kwargs.get("non_blocking")
    if func is torch.ops.aten.copy_.default:
        return args[0].device.type != args[1].device.type and not any(args[2:])
    return False


class HostWaits(TorchDispatchMode):
    """Lists the operations that would wait if all tensors on the CPU were on a GPU.

    So a real step can be taken, with its backward pass, which FakeTensorMode cannot take on CUDA.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # lift_fresh: a tensor made of Python numbers, which would be sent
        if func is torch.ops.aten.lift_fresh.default or waits_for_device(func, args, kwargs or {}):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class FakeCuda(TorchDispatchMode):
    """Logs copies, waits and kept memory; tensors of the CPU are real, those of the GPU empty.

    events: in order; waits: operations for which the host would wait for the GPU.
    """

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free
        self.events: list[tuple[object, ...]] = []
        self.waits: list[str] = []
        self.stream = STREAMS[0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._pin_memory.default:
            return args[0]
        if kwargs.pop("pin_memory", False):
            self.events.append(("pin",))
        if func is torch.ops.aten.record_stream.default:
            self.events.append(("keep memory for", STREAMS[args[1].stream_id]))
            return None
        before = devices_of((args, kwargs))
        if "cuda" not in before:
            with _disable_current_modes():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if waits_for_device(func, args, kwargs):
            self.waits.append(str(func))
        if func in COPIES and before | devices_of(result) == {"cpu", "cuda"}:
            self.events.append(("copy", self.stream))
        return result


def devices_of(values: object) -> set[str]:
    """Return the types of all devices in a tree of arguments or results."""
    leaves = tree_leaves(values)
    devices = [leaf.device for leaf in leaves if isinstance(leaf, Tensor)]
    return {device.type for device in (*devices, *leaves) if isinstance(device, torch.device)}


class FakeStream(torch.Stream):
    """A stream of which only the waits matter."""

    cuda: FakeCuda
    name: str

    def wait_stream(self, stream: torch.Stream) -> None:
        assert isinstance(stream, FakeStream)
        self.cuda.events.append(("wait", self.name, stream.name))


def fake_stream(cuda: FakeCuda, number: int, name: str) -> FakeStream:
    stream = FakeStream(stream_id=number, device_index=0, device_type=1)  # 1: CUDA
    stream.cuda, stream.name = cuda, name
    return stream


class FakeEvent:
    """Stands for `torch.cuda.Event`."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def record(self, stream: FakeStream) -> None:
        self._cuda.events.append(("record", stream.name))

    def synchronize(self) -> None:
        self._cuda.waits.append("event")


@contextmanager
def fake_cuda(*, free: int = 10 * GIB, total: int = 10 * GIB) -> Iterator[FakeCuda]:
    """Let tensors live on a CUDA device that is not there, with so much free memory."""
    with FakeTensorMode(allow_non_fake_inputs=True), FakeCuda(free) as cuda:
        streams = {name: fake_stream(cuda, n, name) for n, name in enumerate(STREAMS)}
        with pytest.MonkeyPatch.context() as patch:

            @contextmanager
            def on_stream(stream: FakeStream) -> Iterator[None]:
                before, cuda.stream = cuda.stream, stream.name
                yield
                cuda.stream = before

            patch.setattr(torch.cuda, "mem_get_info", lambda *_: (cuda.free, total))
            patch.setattr(torch.cuda, "Stream", lambda *_: streams["copy"])
            patch.setattr(torch.cuda, "current_stream", lambda *_: streams[cuda.stream])
            patch.setattr(torch.cuda, "stream", on_stream)
            patch.setattr(torch.cuda, "Event", lambda: FakeEvent(cuda))
            yield cuda
