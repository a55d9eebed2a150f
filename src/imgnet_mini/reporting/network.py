"""Structure of a network, found by running a copy without values: its stages."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor, nn

_CONTAINERS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_SIZES_TO_OPEN: Final = 3
"""A Sequential whose children produce this many image sizes is split into its children."""

_MAX_NAMED_BLOCKS: Final = 4


@dataclass(frozen=True)
class Stage:
    """One part of a network.

    layers: their names in the network; content: their types.
    output: shape for one image, without the batch dimension.
    """

    layers: tuple[str, ...]
    content: str
    output: tuple[int, ...]
    parameters: int


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, trainable or frozen; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def shape_copy(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode on torch's meta device: shapes without values.

    Running it changes neither the mode, gradients, statistics nor device of `model`.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    # deepcopy takes what the memo holds instead of copying it, so the weights are not doubled.
    memo: dict[int, Any] = {id(tensor): _without_values(tensor) for tensor in tensors}
    return copy.deepcopy(model, memo).eval()


def find_stages(model: nn.Module, img_size: int) -> list[Stage]:
    """Return the parts of a network that run in evaluation mode, in the order of execution.

    A stage is a child of the network, or a child of its one large Sequential of features; single
    layers that keep the shape join the layer with parameters before them. `model` is not changed.
    """
    copied = shape_copy(model)
    outputs = _output_shapes(copied, img_size)
    names = {module: name for name, module in _named_parts(copied, "", outputs)}
    stages: list[Stage] = []
    can_join = False
    for module, output in outputs.items():
        if module not in names:
            continue
        stage = Stage((names[module],), _describe(module), output, count_parameters(module))
        if can_join and _is_layer(module) and output == stages[-1].output:
            stages[-1] = _join(stages[-1], stage)
        else:
            stages.append(stage)
            can_join = _is_layer(module) and stage.parameters > 0
    return stages


def _without_values(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(shape, requires_grad=tensor.requires_grad)
    return shape


def _output_shapes(copied: nn.Module, img_size: int) -> dict[nn.Module, tuple[int, ...]]:
    """Return the output shape of each module for one image, in the order in which they finish."""
    outputs: dict[nn.Module, tuple[int, ...]] = {}

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[module] = tuple(output.shape[1:])

    for module in copied.modules():
        module.register_forward_hook(record)
    with torch.no_grad():
        copied(torch.empty(1, 3, img_size, img_size, device="meta"))
    return outputs


def _named_parts(
    module: nn.Module, prefix: str, outputs: dict[nn.Module, tuple[int, ...]]
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children by name; a ModuleList or a large Sequential is replaced by its own."""
    for name, child in module.named_children():
        sizes = {outputs[part][1:] for part in child.children() if part in outputs}
        is_large = isinstance(child, nn.Sequential) and len(sizes) >= _SIZES_TO_OPEN
        if is_large or isinstance(child, nn.ModuleList):
            yield from _named_parts(child, f"{prefix}{name}.", outputs)
        else:
            yield f"{prefix}{name}", child


def _describe(module: nn.Module) -> str:
    """Return the type of a layer, or the types of the blocks of a stage and how many there are."""
    if isinstance(module, _CONTAINERS):
        return _describe_blocks(module)
    kind = type(module).__name__
    inside = [child for child in module.children() if isinstance(child, _CONTAINERS)]
    is_stack = len(inside) == 1 and not any(
        _is_layer(block) or isinstance(block, _CONTAINERS) for block in inside[0].children()
    )
    return f"{kind}: {_describe_blocks(inside[0])}" if is_stack else kind


def _describe_blocks(container: nn.Module) -> str:
    kinds = [type(child).__name__ for child in container.children()]
    runs = [(kind, len(list(run))) for kind, run in groupby(kinds)]
    if len(runs) > _MAX_NAMED_BLOCKS:
        return f"{len(kinds)} {'layers' if all(map(_is_layer, container.children())) else 'blocks'}"
    return " · ".join(
        f"{count} \N{MULTIPLICATION SIGN} {kind}" if count > 1 else kind for kind, count in runs
    )


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _join(first: Stage, second: Stage) -> Stage:
    return Stage(
        first.layers + second.layers,
        f"{first.content} · {second.content}",
        second.output,
        first.parameters + second.parameters,
    )
