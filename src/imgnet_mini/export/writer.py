"""Write an exported model to a file, and keep it only if it matches the network."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from imgnet_mini.checkpoint.store import tensor_bytes
from imgnet_mini.errors import ExportError
from imgnet_mini.export.formats import Description, ExportFormat, ModelBuilder
from imgnet_mini.export.parity import ParityResult, compare, compare_raw
from imgnet_mini.export.raw_images import RawImages
from imgnet_mini.utils.atomic_file import (
    flush_and_close,
    fsync_folder,
    temporary_file,
    translate_write_errors,
)


@dataclass(frozen=True)
class Exportable:
    """A network to export, and what is written and checked with it.

    build: builds the network from a state dict.
    images: (N, 3, S, S) float32, normalized, to check the exported model on.
    description: see `formats.describe`.
    pictures: of `images`, (H, W, 3) uint8 each, for a model that takes them as they are.
    """

    module: nn.Module
    build: ModelBuilder
    images: Tensor
    description: Description
    pictures: tuple[Tensor, ...] = ()


def write_checked(export_format: ExportFormat, model: Exportable, path: Path) -> ParityResult:
    """Write a file, load it again and compare it with the network; `path` is replaced last.

    Raises:
        ExportError: the exported model does not match; no file is left.
        WriteError: the file cannot be written.
    """
    module = model.module.to(memory_format=torch.contiguous_format)
    graph, example = module, model.images[:1]
    if model.pictures:
        graph = RawImages(module, model.description["preprocessing"]).eval()
        example = model.pictures[0].unsqueeze(0)
    with (
        translate_write_errors(path, tensor_bytes(module.state_dict())),
        temporary_file(path) as (file, temporary),
    ):
        with torch.no_grad():
            two = example.repeat(2, 1, 1, 1)  # torch.export fixes the size of a batch of one
            export_format.write(graph, two, model.description, file)
        flush_and_close(file, temporary)
        exported = export_format.read(temporary, model.build)
        if model.pictures:
            parity = compare_raw(graph, module, exported, model.pictures, model.images)
        else:
            parity = compare(module, exported, model.images)
        check_parity(parity)
        temporary.replace(path)
        fsync_folder(path.parent)
    return parity


def check_parity(parity: ParityResult) -> ParityResult:
    """Return the result of a comparison if both models agree.

    Raises:
        ExportError: they do not.
    """
    if not parity.is_match:
        raise ExportError(
            f"the exported model does not match: top-1 agrees on {parity.same_top1} of "
            f"{parity.images} images, logits differ by up to {parity.max_difference:.1e}. "
            "The file was not kept; try another --format"
        )
    return parity
