"""export: write a trained model in another format, and check the file."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgnet_mini.checkpoint.store import tensor_bytes
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.data.batches import load_batches
from imgnet_mini.data.folder import find_inference_images
from imgnet_mini.data.transforms import Normalize
from imgnet_mini.data.tree import val_folder
from imgnet_mini.errors import ConfigError, DataError, ExportError
from imgnet_mini.export.formats import FORMATS, Description, ExportFormat, describe, to_json
from imgnet_mini.export.parity import ParityResult, compare
from imgnet_mini.inference.model import InferenceModel, load_inference_model
from imgnet_mini.inference.settings import checkpoint_settings
from imgnet_mini.training.model import build_with_weights
from imgnet_mini.utils.atomic_file import (
    flush_and_close,
    fsync_folder,
    temporary_file,
    translate_write_errors,
    write_text,
)
from imgnet_mini.utils.console import format_bytes, print_lines

_CPU: Final = torch.device("cpu")
_CHECK_IMAGES: Final = 16
"""Number of images to check the exported file on."""


def run(
    overrides: RunConfig,
    *,
    checkpoint: str = "best",
    form: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Export a checkpoint, check the file on images, and write a JSON description beside it.

    form: a key of `FORMATS`; by default from the suffix of `output`, else `pt2`.
    output: the file to write; by default named after the checkpoint, in `exports/<name>/` of the
        run that saved it.

    Raises:
        ConfigError: the file exists, the format is unknown, or its packages are not installed.
        CheckpointError: see `load_inference_model`.
        ExportError: the exported model does not match; the file is removed.
        WriteError: the file cannot be written.
    """
    form = _choose_format(form, output)
    export_format = FORMATS[form]
    _check_packages(form, export_format)
    model = load_inference_model(overrides, checkpoint, _CPU)
    config = checkpoint_settings(overrides, checkpoint, model.path, model.saved_settings)
    path = output or config.run.paths().export_dir / f"{model.path.stem}{export_format.suffix}"
    json_path = path.with_name(f"{path.name}.json")
    _check_new([path, json_path], model, overwrite=overwrite)
    images, source = _load_images(val_folder(config.run.data_root), model)
    description = describe(model.arch, model.img_size, model.classes, model.decoding) | {
        "checkpoint": model.path.name,
        "checkpoint_sha256": model.sha256,
        "epoch": model.epoch,
    }
    parity = _write(export_format, model, images, description, path)
    write_text(json_path, to_json(description))
    print_lines(
        f"{model.arch} of {len(model.classes)} classes as {form}: "
        f"{format_bytes(path.stat().st_size)}",
        f"Checked on {parity.images} {source}: the same top-1 on all of them, logits within "
        f"{parity.max_difference:.1e}",
        f"Wrote {path} and {json_path}",
    )


def _choose_format(form: str | None, output: Path | None) -> str:
    if form is None:
        suffixes = {known.suffix: name for name, known in FORMATS.items()}
        form = suffixes.get(output.suffix.lower(), "pt2") if output is not None else "pt2"
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    return form


def _check_packages(form: str, export_format: ExportFormat) -> None:
    missing = [package for package in export_format.packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--format {form} requires {', '.join(missing)}, not installed. Run:\n"
            f'  pip install "imgnet-mini[{export_format.extra}]"'
        )


def _check_new(files: list[Path], model: InferenceModel, *, overwrite: bool) -> None:
    for file in files:
        if file.resolve() == model.path.resolve():
            raise ConfigError(f"--output {file}: that is the checkpoint itself")
        if file.exists() and not overwrite:
            raise ConfigError(
                f"{file} exists; replace it with --overwrite, or name another one with --output"
            )


def _load_images(val: Path, model: InferenceModel) -> tuple[Tensor, str]:
    """Return normalized images and where they are from: validation, or random if it is missing."""
    files: list[Path] = []
    with suppress(DataError):  # the data may be elsewhere
        files = find_inference_images([val])
    chosen = files[:: max(1, len(files) // _CHECK_IMAGES)][:_CHECK_IMAGES]
    batches = load_batches(chosen, model.crop.load, batch_size=_CHECK_IMAGES, threads=1)
    found = [image for batch in batches for image in batch.images]
    pixels = torch.stack(found) if found else _random_images(model.img_size)
    source = f"images of {val}" if found else "random images"
    return Normalize(_CPU)(pixels).contiguous(), source


def _random_images(img_size: int) -> Tensor:
    """Return smooth random images from a fixed seed: (N, 3, S, S) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_CHECK_IMAGES, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=img_size, mode="bilinear")
    return (255 * smooth).to(torch.uint8)


def _write(
    export_format: ExportFormat,
    model: InferenceModel,
    images: Tensor,
    description: Description,
    path: Path,
) -> ParityResult:
    module = model.module.to(memory_format=torch.contiguous_format)

    def build(weights: dict[str, Tensor]) -> nn.Module:
        return build_with_weights(
            ModelConfig(arch=model.arch),
            weights,
            classes=len(model.classes),
            img_size=model.img_size,
        )

    with (
        translate_write_errors(path, tensor_bytes(module.state_dict())),
        temporary_file(path) as (file, temporary),
    ):
        with torch.no_grad():
            export_format.write(module, images[:1].repeat(2, 1, 1, 1), description, file)
        flush_and_close(file, temporary)
        parity = compare(module, export_format.read(temporary, build), images)
        if not parity.is_match:
            raise ExportError(
                f"the exported model does not match: top-1 agrees on {parity.same_top1} of "
                f"{parity.images} images, logits differ by up to {parity.max_difference:.1e}. "
                "The file was not kept; try another --format"
            )
        temporary.replace(path)
        fsync_folder(path.parent)
    return parity
