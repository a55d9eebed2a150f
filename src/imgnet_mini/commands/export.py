"""Write a trained network as a file that other programs run, and prove that it is the same."""

from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgnet_mini.checkpoint.store import tensor_bytes
from imgnet_mini.commands.evaluate import saved_settings
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.settings import ModelConfig
from imgnet_mini.data.inference_images import find_inference_images, load_batches
from imgnet_mini.data.transforms import EvalCrop, Normalize
from imgnet_mini.errors import ConfigError, DataError, ExportError
from imgnet_mini.export.description import Description, describe, to_json
from imgnet_mini.export.formats import FORMATS, Format
from imgnet_mini.export.parity import ParityResult, compare
from imgnet_mini.inference.model import InferenceModel, load_inference_model
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
_CHECKED: Final = 16
"""Images that the exported file is tried on."""


def run(
    overrides: RunConfig,
    *,
    checkpoint: str = "best",
    form: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Export a checkpoint, check the file on images, and describe it in a JSON file beside it.

    form: a key of `FORMATS`; unset: by the ending of `output`, or else `pt2`.
    output: the file to write; unset: `exports/<name>/` and the name of the checkpoint.

    Raises:
        ConfigError: there is such a file already, the format is unknown, or its packages are
            missing.
        CheckpointError: see `load_inference_model`.
        ExportError: the file says something else than the network; it is removed.
        WriteError: it cannot be written.
    """
    form = _form(form, output)
    kind = FORMATS[form]
    _check_packages(form, kind)
    trained = load_inference_model(overrides, checkpoint, _CPU)
    path = output or overrides.run.paths().export_dir / f"{trained.path.stem}{kind.suffix}"
    beside = path.with_name(f"{path.name}.json")
    _check_no_run([path, beside], trained, overwrite=overwrite)
    images, whence = _images(overrides, trained.img_size)
    description = describe(trained.arch, trained.img_size, trained.classes) | {
        "checkpoint": trained.path.name,
        "checkpoint_sha256": trained.sha256,
        "epoch": trained.epoch,
    }
    agreement = _write(kind, trained, images, description, path)
    write_text(beside, to_json(description))
    print_lines(
        f"{trained.arch} of {len(trained.classes)} classes as {form}: "
        f"{format_bytes(path.stat().st_size)}",
        f"Checked on {agreement.images} {whence}: the same top-1 on all of them, logits within "
        f"{agreement.difference:.1e}",
        f"Wrote {path} and {beside}",
    )


def _form(form: str | None, output: Path | None) -> str:
    if form is None:
        endings = {kind.suffix: name for name, kind in FORMATS.items()}
        form = endings.get(output.suffix.lower(), "pt2") if output is not None else "pt2"
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    return form


def _check_packages(form: str, kind: Format) -> None:
    missing = kind.missing_packages()
    if missing:
        raise ConfigError(
            f"--format {form} needs {', '.join(missing)}, which this Python has not; install with\n"
            f'  pip install "imgnet-mini[{kind.extra}]"'
        )


def _check_no_run(files: list[Path], trained: InferenceModel, *, overwrite: bool) -> None:
    for file in files:
        if file.resolve() == trained.path.resolve():
            raise ConfigError(f"--output {file}: this is the checkpoint itself")
        if file.exists() and not overwrite:
            raise ConfigError(
                f"{file} exists; replace it with --overwrite, or name another one with --output"
            )


def _images(overrides: RunConfig, img_size: int) -> tuple[Tensor, str]:
    """Images ready for the network, and what they are: of validation, or else made up."""
    val = saved_settings(overrides).run.data_root / "val"
    files: list[Path] = []
    with suppress(DataError):  # the data need not be here
        files = find_inference_images([val])
    chosen = files[:: max(1, len(files) // _CHECKED)][:_CHECKED]
    batches = load_batches(chosen, EvalCrop(img_size).load, batch_size=_CHECKED, threads=1)
    found = [image for batch in batches for image in batch.images]
    pixels = torch.stack(found) if found else _made_up(img_size)
    what = f"images of {val}" if found else "made-up images"
    return Normalize(_CPU)(pixels).contiguous(), what


def _made_up(img_size: int) -> Tensor:
    """Coarse blots of colour, always the same: (N, 3, S, S) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_CHECKED, 3, 5, 5, generator=generator)
    blots = F.interpolate(coarse, size=img_size, mode="bilinear")
    return (255 * blots).to(torch.uint8)


def _write(
    kind: Format, trained: InferenceModel, images: Tensor, description: Description, path: Path
) -> ParityResult:
    model = trained.model.to(memory_format=torch.contiguous_format)

    def rebuild(weights: dict[str, Tensor]) -> nn.Module:
        return build_with_weights(
            ModelConfig(arch=trained.arch),
            weights,
            classes=len(trained.classes),
            img_size=trained.img_size,
        )

    with (
        translate_write_errors(path, tensor_bytes(model.state_dict())),
        temporary_file(path) as (file, temporary),
    ):
        with torch.no_grad():
            kind.write(model, images[:1].repeat(2, 1, 1, 1), description, file)
        flush_and_close(file, temporary)
        agreement = compare(model, kind.read(temporary, rebuild), images)
        if not agreement.holds:
            raise ExportError(
                f"the exported file says something else than the network: the same top-1 on "
                f"{agreement.same_top1} of {agreement.images} images, logits up to "
                f"{agreement.difference:.1e} apart; it is not kept. Try another --format"
            )
        temporary.replace(path)
        fsync_folder(path.parent)
    return agreement
