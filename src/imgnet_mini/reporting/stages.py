"""The stages of a network, found by running its shapes through it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from imgnet_mini.reporting.shapes import shape_copy
from imgnet_mini.reporting.summary import count_parameters

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_SIZES_TO_OPEN = 3
"""A Sequential whose parts give so many image sizes is most of a network, not one stage."""

_NAMED_BLOCKS = 4


@dataclass(frozen=True)
class Stage:
    """One part of the network.

    layers: their names in the network; content: what these are; output: shape for one image,
    the batch left out.
    """

    layers: tuple[str, ...]
    content: str
    output: tuple[int, ...]
    parameters: int


def find_stages(model: nn.Module, img_size: int) -> list[Stage]:
    """The parts of a network that take part in evaluation, in the order in which they run.

    A stage is a child of the network, or a child of its one large Sequential of features;
    single layers that keep the shape are joined to the layer with parameters before them.
    The model is left as found.
    """
    shapes = shape_copy(model)
    outputs = _run(shapes, img_size)
    parts = {module: name for name, module in _parts(shapes, "", outputs)}
    stages: list[Stage] = []
    is_open = False
    for module, output in outputs.items():
        if module not in parts:
            continue
        stage = Stage((parts[module],), _content(module), output, count_parameters(module))
        if is_open and _is_layer(module) and output == stages[-1].output:
            stages[-1] = _joined(stages[-1], stage)
        else:
            stages.append(stage)
            is_open = _is_layer(module) and stage.parameters > 0
    return stages


def _run(shapes: nn.Module, img_size: int) -> dict[nn.Module, tuple[int, ...]]:
    """What each module gives for one image, in the order in which they end."""
    outputs: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[module] = tuple(output.shape[1:])

    for module in shapes.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        shapes(torch.empty(1, 3, img_size, img_size, device="meta"))
    return outputs


def _parts(
    module: nn.Module, prefix: str, outputs: dict[nn.Module, tuple[int, ...]]
) -> Iterator[tuple[str, nn.Module]]:
    """The children by name, those of a ModuleList or of a large Sequential in its place."""
    for name, child in module.named_children():
        sizes = {outputs[part][1:] for part in child.children() if part in outputs}
        is_large = isinstance(child, nn.Sequential) and len(sizes) >= _SIZES_TO_OPEN
        if is_large or isinstance(child, nn.ModuleList):
            yield from _parts(child, f"{prefix}{name}.", outputs)
        else:
            yield f"{prefix}{name}", child


def _content(module: nn.Module) -> str:
    """The kind of a layer, or the blocks of a stage with their number."""
    if isinstance(module, _CONTAINERS):
        return _blocks(module)
    kind = type(module).__name__
    inside = [child for child in module.children() if isinstance(child, _CONTAINERS)]
    is_stack = len(inside) == 1 and not any(
        _is_layer(block) or isinstance(block, _CONTAINERS) for block in inside[0].children()
    )
    return f"{kind}: {_blocks(inside[0])}" if is_stack else kind


def _blocks(container: nn.Module) -> str:
    kinds = [type(child).__name__ for child in container.children()]
    runs = [(kind, len(list(run))) for kind, run in groupby(kinds)]
    if len(runs) > _NAMED_BLOCKS:
        return f"{len(kinds)} {'layers' if all(map(_is_layer, container.children())) else 'blocks'}"
    return " · ".join(
        f"{count} \N{MULTIPLICATION SIGN} {kind}" if count > 1 else kind for kind, count in runs
    )


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _joined(first: Stage, second: Stage) -> Stage:
    return Stage(
        first.layers + second.layers,
        f"{first.content} · {second.content}",
        second.output,
        first.parameters + second.parameters,
    )
