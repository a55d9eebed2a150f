"""Autocast and gradient scaling for a device and a precision."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.errors import ConfigError


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


def choose_precision(runtime: RuntimeConfig, device: torch.device) -> Precision:
    """Return the precision that the settings ask for, or the fastest one of the device.

    Raises:
        ConfigError: fp16 without CUDA.
    """
    if not runtime.amp:
        return Precision(device.type, None)
    if runtime.precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"--precision fp16 needs CUDA, and this run is on {device.type}: use --precision bf16 "
            "or --no-amp"
        )
    if runtime.precision == "bf16":
        return Precision(device.type, torch.bfloat16)
    if device.type == "cuda":
        return Precision(device.type, torch.float16)
    in_hardware = device.type == "cpu" and _cpu_has_bf16()
    return Precision(device.type, torch.bfloat16 if in_hardware else None)


def _cpu_has_bf16() -> bool:
    """Return whether the CPU has bf16 instructions (AVX512-BF16, AMX); emulation is slow."""
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
