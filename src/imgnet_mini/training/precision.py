"""Autocast and gradient scaling for a device and a precision."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from imgnet_mini.config.settings import RuntimeConfig
from imgnet_mini.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """The type in which convolutions and matrix products run; None for plain float32."""

    device_type: str
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        """`fp16`, `bf16` or `fp32`."""
        return {torch.float16: "fp16", torch.bfloat16: "bf16", None: "fp32"}[self.dtype]

    def autocast(self) -> torch.autocast:
        """A fresh context; inside it the network runs in the lower precision."""
        return torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None)

    def build_scaler(self, clip_grad: float | None = None) -> torch.amp.GradScaler:
        """Only fp16 needs its gradients scaled: they would underflow (Micikevicius et al. 2018).

        clip_norm: let its steps clip gradients too, whatever the precision.
        """
        enabled = self.dtype is torch.float16
        if clip_grad is None:
            return torch.amp.GradScaler(self.device_type, enabled=enabled)
        return ClippingScaler(self.device_type, clip_grad, enabled=enabled)


class ClippingScaler(torch.amp.GradScaler):
    """A scaler in whose steps the gradient of all parameters together has a largest norm.

    It is clipped without its scale (Pascanu et al. 2013, arXiv:1211.5063, section 3.2), and the
    device is not waited for.
    """

    def __init__(self, device_type: str, clip_grad: float, *, enabled: bool) -> None:
        super().__init__(device_type, enabled=enabled)
        self._clip_norm = clip_grad

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Take the step of a scaler on clipped gradients."""
        self.unscale_(optimizer)
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        return super().step(optimizer, *args, **kwargs)


def choose_precision(runtime: RuntimeConfig, device: torch.device) -> Precision:
    """The precision asked for, or the device's best.

    Raises:
        ConfigError: fp16 was asked for without CUDA.
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
    """Whether the processor multiplies bf16 itself (AVX512-BF16, AMX); emulating it is slow."""
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
