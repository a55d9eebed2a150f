"""A CUDA device that computes nothing, for a machine without one: torch's FakeTensorMode, and a log
of all that a program asks of the device and of what would make the host wait for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
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

PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.affine_grid_generator.default,
}

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
        self._reads = HostReads(self.found)

    def __enter__(self) -> "HostWaits":
        self._reads.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._reads.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # lift_fresh: a tensor made of Python numbers, which would be sent
        if func is torch.ops.aten.lift_fresh.default or waits_for_device(func, args, kwargs or {}):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class HostReads(TorchFunctionMode):
    """Lists methods that read a tensor, and that a tensor on the CPU does not dispatch."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.tolist, Tensor.cpu, Tensor.numpy):
            self._found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class FakeCuda(TorchDispatchMode):
    """Logs copies, waits and kept memory; tensors of the CPU are real, those of the GPU empty.

    events: in order; waits: operations for which the host would wait for the GPU; products: in
        float32, which a GPU may compute in TF32.
    """

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free
        self.events: list[tuple[object, ...]] = []
        self.waits: list[str] = []
        self.products: list[str] = []
        self._pinned: list[torch.UntypedStorage] = []
        self.stream = STREAMS[0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._pin_memory.default:
            return self._pin(args[0])
        if func is torch.ops.aten.record_stream.default:
            self.events.append(("keep memory for", STREAMS[args[1].stream_id]))
            return None
        is_pinned = kwargs.pop("pin_memory", False)
        before = devices_of((args, kwargs))
        on_gpu = "cuda" in before
        with nullcontext() if on_gpu else _disable_current_modes():
            result = func(*args, **kwargs)
        if on_gpu and (
            waits_for_device(func, args, kwargs) or self._copies_from_pageable(func, args, result)
        ):
            self.waits.append(str(func))
        if func in PRODUCTS and result.dtype is torch.float32:
            self.products.append(str(func))
        if func in COPIES and before | devices_of(result) == {"cpu", "cuda"}:
            self.events.append(("copy", self.stream))
        return self._pin(result) if is_pinned else result

    def _pin(self, tensor: Tensor) -> Tensor:
        self.events.append(("pin",))
        self._pinned.append(tensor.untyped_storage())
        return tensor

    def _copies_from_pageable(self, func: Any, args: tuple[Any, ...], result: Tensor) -> bool:
        """Return whether a copy to the GPU is from memory that is not pinned, which may wait."""
        if func not in COPIES or not result.is_cuda:
            return False
        source = args[0] if func is torch.ops.aten._to_copy.default else args[1]
        pinned = [storage._cdata for storage in self._pinned]
        return source.is_cpu and source.untyped_storage()._cdata not in pinned


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
