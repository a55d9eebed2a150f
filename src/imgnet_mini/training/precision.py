"""Autocast, gradient scaling and parts in float32, for a device and a precision."""

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.model import find_classifier

MIN_SCALE: Final = 1.0
"""The gradient scale starts at 65536 and each overflow halves it; below 1, training has failed."""


@dataclass(frozen=True)
class Precision:
    """The dtype of convolutions and matrix products under autocast; None for float32."""

    device_type: str
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        """`fp16`, `bf16` or `fp32`."""
        return {torch.float16: "fp16", torch.bfloat16: "bf16", None: "fp32"}[self.dtype]

    def autocast(self) -> torch.autocast:
        """Return a new autocast context."""
        return torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None)

    @property
    def for_validation(self) -> "Precision":
        """Return bf16, or float32 without hardware for it, in place of fp16, which overflows.

        Early in a run, running statistics lag behind the weights, and activations in evaluation
        mode exceed the largest number of fp16, 65,504.
        """
        if self.dtype is not torch.float16:
            return self
        others = (
            dtype for dtype in _fast_dtypes(torch.device(self.device_type)) if dtype != self.dtype
        )
        return Precision(self.device_type, next(others))

    def build_scaler(self, clip_grad: float | None = None) -> torch.amp.GradScaler:
        """Return a scaler, enabled for fp16, whose gradients would underflow.

        See Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.

        clip_grad: clip gradients to this global norm, in any precision.
        """
        enabled = self.dtype is torch.float16
        if clip_grad is None:
            return torch.amp.GradScaler(self.device_type, enabled=enabled)
        return ClippingScaler(self.device_type, clip_grad, enabled=enabled)


class ClippingScaler(torch.amp.GradScaler):
    """A gradient scaler that clips gradients to a global norm, without waiting for the device.

    Gradients are unscaled first. See Pascanu et al. 2013, arXiv:1211.5063, section 3.2.
    """

    def __init__(self, device_type: str, clip_grad: float, *, enabled: bool) -> None:
        super().__init__(device_type, enabled=enabled)
        self._clip_grad = clip_grad

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Unscale and clip the gradients, then take the step."""
        self.unscale_(optimizer)
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        nn.utils.clip_grad_norm_(parameters, self._clip_grad)
        return super().step(optimizer, *args, **kwargs)


def choose_precision(
    runtime: RuntimeConfig, device: torch.device, *, previous: str | None = None
) -> Precision:
    """Return the precision that the settings ask for, or the fastest one of the device.

    previous: of a run that is resumed, kept instead of the fastest one where it is not emulated.

    Raises:
        ConfigError: fp16 without CUDA.
    """
    if not runtime.amp:
        return Precision(device.type, None)
    if runtime.precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"--precision fp16 needs CUDA, and this run is on {device.type}: train with "
            "--precision bf16 or --no-amp; a run that was started in fp16 resumes with CUDA only"
        )
    if runtime.precision == "bf16":
        return Precision(device.type, torch.bfloat16)
    fast = _fast_dtypes(device)
    for dtype in fast:
        if previous == Precision(device.type, dtype).name:
            return Precision(device.type, dtype)
    return Precision(device.type, fast[0])


def emulates_bf16(device: torch.device) -> bool:
    """Return True for a CPU without bf16 instructions: training took ten times as long on AVX2."""
    cpu = torch.cpu
    has_it = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    return device.type == "cpu" and not has_it


def _fast_dtypes(device: torch.device) -> tuple[torch.dtype | None, ...]:
    """Return the dtypes that the device computes in without emulation, the fastest first.

    GPUs have bf16 from compute capability 8.0 (Ampere). CPUs are faster in it with AMX; with
    AVX512-BF16 alone, training took 10 % longer than in float32.
    """
    bf16 = torch.bfloat16
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return (bf16, torch.float16, None) if has_bf16 else (torch.float16, None)
    if device.type != "cpu" or emulates_bf16(device):
        return (None,)
    return (bf16, None) if torch.cpu._is_amx_tile_supported() else (None, bf16)


class _InFloat32(nn.Module):
    """A layer that computes in float32 under autocast."""

    device_type = "cpu"

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device_type, enabled=False):
            outputs: Tensor = super().forward(inputs.float())
        return outputs


class Float32Linear(_InFloat32, nn.Linear):
    """A linear layer that computes in float32 under autocast."""


class Float32Conv2d(_InFloat32, nn.Conv2d):
    """A convolution that computes in float32 under autocast."""


_IN_FLOAT32: Final[dict[type[nn.Module], type[_InFloat32]]] = {
    nn.Linear: Float32Linear,
    nn.Conv2d: Float32Conv2d,
}


def use_float32_classifier(model: nn.Module, device_type: str) -> None:
    """Let the layer that returns the logits compute in float32.

    In bf16, many logits of an image tie, and accuracy would depend on how ties are broken. The
    weights keep their names.
    """
    classifier = find_classifier(model)
    classifier.__class__ = _IN_FLOAT32[type(classifier)]
    cast(_InFloat32, classifier).device_type = device_type


class FiniteBuffers:
    """Keeps running statistics finite over steps whose activations overflow.

    The scaler skips such a step, but batch norm has already averaged the overflow in.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._sizes = [buffer.numel() for buffer in self._buffers]
        self._before = self._gather()

    def remember(self) -> None:
        """Copy the buffers, before a step."""
        self._before = self._gather()

    def restore(self) -> None:
        """Restore elements that are no longer finite; the host does not wait for the device."""
        if not self._buffers:
            return
        now = self._gather()
        kept = torch.split(torch.where(now.isfinite(), now, self._before), self._sizes)
        values = [part.view_as(buffer) for part, buffer in zip(kept, self._buffers, strict=True)]
        torch._foreach_copy_(self._buffers, values)

    def _gather(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._buffers or [torch.empty(0)]])
