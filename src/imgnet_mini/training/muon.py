"""Muon for convolution and linear weights, with AdamW for all other parameters."""

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from imgnet_mini.errors import ConfigError

_DEFAULTS: Final = {
    "use_muon": False,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "momentum": 0.95,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
}

_NEWTON_SCHULZ: Final[dict[str, Any]] = {
    "ns_coefficients": (3.4445, -4.7750, 2.0315),
    "ns_steps": 5,
    "eps": 1e-7,
}
"""The defaults of `torch.optim.Muon`."""


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024) in groups with `use_muon`, AdamW in all others.

    Each Muon update is orthogonalized by `torch.optim`'s own Newton-Schulz iteration and scaled to
    the RMS of an AdamW update (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that one
    learning rate and weight decay serve all groups. `torch.optim.Muon` takes matrices only; here,
    a convolution weight (out, in, k, k) is updated as a matrix (out, in * k * k).

    With gradient scaling, a step whose gradients overflow is skipped without waiting for the GPU.

    Raises:
        ConfigError: this torch has no Muon.
    """

    _step_supports_amp_scaling = True  # GradScaler then sets grad_scale and found_inf

    def __init__(self, params: list[dict[str, Any]], **defaults: Any) -> None:
        try:
            from torch.optim._muon import muon  # noqa: PLC0415  # since torch 2.9
        except ImportError as error:
            raise ConfigError(
                f"--optimizer muon: torch {torch.__version__} has no Muon; install torch 2.9 or "
                "later, or choose --optimizer adamw"
            ) from error
        self._muon = muon
        super().__init__(params, _DEFAULTS | defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one optimizer step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [one for one in group["params"] if one.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter] = initial_state(state_names(group), parameter)
            if not group["use_muon"]:
                self._step_adamw(group, parameters, grad_scale, found_inf)
                continue
            for parameter in parameters:
                gradient = cast(Tensor, parameter.grad)
                if grad_scale is not None:
                    gradient = gradient / grad_scale
                self._step_muon(group, parameter, gradient, found_inf)
        return loss

    def _step_adamw(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> None:
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [cast(Tensor, parameter.grad) for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            grad_scale=grad_scale,
            found_inf=found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _step_muon(
        self,
        group: dict[str, Any],
        parameter: Tensor,
        gradient: Tensor,
        found_inf: Tensor | None,
    ) -> None:
        momentum = self.state[parameter]["momentum_buffer"]
        before = None if found_inf is None else (parameter.clone(), momentum.clone())
        self._muon(
            [_as_matrix(parameter, like=parameter)],
            [_as_matrix(gradient, like=parameter)],
            [_as_matrix(momentum, like=parameter)],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            nesterov=True,
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
            **_NEWTON_SCHULZ,
        )
        if found_inf is not None and before is not None:
            for now, old in zip((parameter, momentum), before, strict=True):
                now.copy_(torch.where(found_inf > 0, old, now))


def _as_matrix(tensor: Tensor, *, like: Tensor) -> Tensor:
    """Return a tensor (out, ...) as (out, rest), in the memory order of the parameter `like`.

    It is a view of the parameter itself and of tensors of the same memory order.
    """
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(len(tensor), -1)


def state_names(group: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the tensors that are kept for each parameter of a group."""
    return ("momentum_buffer",) if group["use_muon"] else ("step", "exp_avg", "exp_avg_sq")


def initial_state(names: tuple[str, ...], parameter: Tensor) -> dict[str, Tensor]:
    """Return these tensors before the first step: zeros."""
    return {
        name: torch.zeros((), device=parameter.device)
        if name == "step"
        else torch.zeros_like(parameter, memory_format=torch.preserve_format)
        for name in names
    }


def hidden_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights that Muon updates: of hidden convolution, linear and attention layers.

    The first and the last of these layers, depthwise convolutions and embeddings are left out, as
    the authors advise (https://kellerjordan.github.io/posts/muon).
    """
    layers = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    weights = [
        parameter
        for module in model.modules()
        if isinstance(module, layers)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim in (2, 4)
    ]
    return [weight for weight in weights[1:-1] if weight.shape[1] > 1]
