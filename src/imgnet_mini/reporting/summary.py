"""Table of the layers of a network: shapes, parameters and multiply-adds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imgnet_mini.reporting.network import count_parameters, shape_copy

_DEPTH: Final = 3
"""Levels of layers in the table; a layer of the last one includes what is inside it."""

_TITLES: Final = ("Layer (type)", "Input Shape", "Output Shape", "Param #", "Mult-Adds")

_CONVENTION: Final = """\
Mult-adds are the multiply-add operations of convolutions, matrix products and attention for one
image: half the FLOPs of torch.utils.flop_counter. Normalization, activations and pooling are not
counted. Rows add up to the totals: a row leaves out what the rows below it count.
"""


@dataclass
class _Call:
    """Shapes of the last call of a module, and the multiply-adds that none of its children do."""

    input: str = ""
    output: str = ""
    mult_adds: int = 0


@dataclass(frozen=True)
class _Row:
    depth: int
    name: str
    call: _Call
    parameters: int
    mult_adds: int


def count_mult_adds(model: nn.Module, img_size: int) -> int:
    """Return the multiply-adds for one image of `img_size` x `img_size` pixels.

    Those of convolutions, matrix products and attention are counted, as published figures do.
    """
    return sum(call.mult_adds for call in _trace(shape_copy(model), img_size).values())


def summarize_model(model: nn.Module, img_size: int) -> str:
    """Return a table of the layers for a (1, 3, img_size, img_size) input in evaluation mode."""
    copied = shape_copy(model)
    calls = _trace(copied, img_size)
    rows = [*_rows(copied, type(copied).__name__, 0, calls, set())]
    table = [_TITLES, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_TITLES))]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
    rule = "=" * max(map(len, lines))
    total = sum(call.mult_adds for call in calls.values())
    text = "\n".join([rule, lines[0], rule, *lines[1:], rule])
    return (
        f"{text}\nTotal params: {count_parameters(model):,}\n"
        f"Total mult-adds: {_format_total(total)}\n{rule}\n{_CONVENTION}"
    )


def _trace(copied: nn.Module, img_size: int) -> dict[nn.Module, _Call]:
    """Run a copy without values, and return its modules in the order of their first call."""
    calls: dict[nn.Module, _Call] = {}
    running: list[nn.Module] = []
    counter = FlopCounterMode(display=False)
    counted = 0

    def credit_innermost() -> None:
        """Count what was computed since the last call of this for the module that runs now."""
        nonlocal counted
        total = counter.get_total_flops()
        if running:
            calls[running[-1]].mult_adds += (total - counted) // 2
        counted = total

    def enter(module: nn.Module, inputs: tuple[object, ...]) -> None:
        credit_innermost()
        call = calls.setdefault(module, _Call())
        call.input = _shape(inputs[0] if inputs else None)
        running.append(module)

    def leave(module: nn.Module, _: object, output: object) -> None:
        credit_innermost()
        calls[module].output = _shape(output)
        running.pop()

    for module in copied.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    with torch.no_grad(), counter:
        copied(torch.empty(1, 3, img_size, img_size, device="meta"))
    return calls


def _rows(
    module: nn.Module, name: str, depth: int, calls: dict[nn.Module, _Call], seen: set[nn.Parameter]
) -> Iterator[_Row]:
    """Yield a row for a module and those for its children; shared parameters count once."""
    children = [*_called_children(module, "", calls)] if depth < _DEPTH else []
    inside = {parameter for _, child in children for parameter in child.parameters()}
    own = set(module.parameters()) - inside - seen
    seen |= own
    parts = module.modules() if depth == _DEPTH else (module,)
    work = sum(calls[part].mult_adds for part in parts if part in calls)
    yield _Row(depth, name, calls[module], sum(p.numel() for p in own), work)
    for child_name, child in children:
        yield from _rows(child, f"{child_name}: {type(child).__name__}", depth + 1, calls, seen)


def _called_children(
    module: nn.Module, prefix: str, calls: dict[nn.Module, _Call]
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children that ran, by name; a list that does not run is replaced by its own."""
    for name, child in module.named_children():
        if child in calls:
            yield f"{prefix}{name}", child
        else:
            yield from _called_children(child, f"{prefix}{name}.", calls)


def _cells(row: _Row) -> tuple[str, ...]:
    numbers = (f"{count:,}" if count else "--" for count in (row.parameters, row.mult_adds))
    return (f"{'  ' * row.depth}{row.name}", row.call.input, row.call.output, *numbers)


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else "--"


def _format_total(count: int) -> str:
    """Return a count such as `4.09 G (4,089,184,256)`."""
    unit, scale = ("G", 1e9) if count >= 1e9 else ("M", 1e6)
    return f"{count / scale:.2f} {unit} ({count:,})"
