"""export: write a trained model in another format, and check the file."""

import shlex
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.data.classes import imagenet_classes
from imgnet_mini.data.layout import val_folder
from imgnet_mini.errors import ConfigError
from imgnet_mini.export.check_images import CheckImages, load_check_images
from imgnet_mini.export.formats import FORMATS, Description, describe, to_json
from imgnet_mini.export.hub import (
    CARD,
    UNKNOWN_LICENSE,
    WEIGHTS,
    folder_checkpoint,
    is_in_timm,
    push_folder,
)
from imgnet_mini.export.hub_folder import write_hub_folder
from imgnet_mini.export.options import (
    HubOptions,
    check_hub_options,
    check_inputs,
    check_packages,
    choose_format,
)
from imgnet_mini.export.parity import ParityResult
from imgnet_mini.export.raw_images import describe_raw
from imgnet_mini.export.space import MODEL, write_space_folder
from imgnet_mini.export.writer import Exportable, write_checked
from imgnet_mini.inference.model import InferenceModel, load_inference_model
from imgnet_mini.inference.settings import checkpoint_settings, is_saved_by
from imgnet_mini.reporting.readme.card import ModelCard, find_result
from imgnet_mini.reporting.run_view import read_run
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.model import build_with_weights
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import format_bytes, print_lines

_CPU: Final = torch.device("cpu")


def run(
    overrides: RunConfig,
    *,
    checkpoint: str = "best",
    form: str | None = None,
    inputs: str = "float32",
    output: Path | None = None,
    overwrite: bool = False,
    hub: HubOptions | None = None,
) -> None:
    """Export a checkpoint, check the file on images, and write a JSON description beside it.

    form: a key of `FORMATS`, `hub` or `space`; by default from the suffix of `output`, else `pt2`.
    inputs: `float32` for normalized images of the model's size; `uint8` for images as they are.
    output: the file or folder to write; by default named after the checkpoint, in
        `exports/<name>/` of the run that saved it.
    hub: options of the form `hub`.

    Raises:
        ConfigError: the file exists, the format is unknown, or its packages are not installed.
        CheckpointError: see `load_inference_model`.
        ExportError: the exported model does not match; the file is removed.
        WriteError: the file cannot be written or uploaded.
    """
    form = choose_format(form, output)
    check_inputs(inputs, form)
    check_packages(form)
    hub = check_hub_options(form, hub or HubOptions())
    model = load_inference_model(overrides, checkpoint, _CPU)
    config = checkpoint_settings(overrides, checkpoint, model.path, model.saved_settings)
    if form == "hub":
        _export_hub(model, config, output, hub, overwrite=overwrite)
    elif form == "space":
        _export_space(model, config, output, overwrite=overwrite)
    else:
        _export_file(model, config, form, output, inputs=inputs, overwrite=overwrite)


def _export_file(
    model: InferenceModel,
    config: RunConfig,
    form: str,
    output: Path | None,
    *,
    inputs: str,
    overwrite: bool,
) -> None:
    export_format = FORMATS[form]
    path = output or config.run.paths().export_dir / f"{model.path.stem}{export_format.suffix}"
    json_path = path.with_name(f"{path.name}.json")
    _check_new([path, json_path], model, overwrite=overwrite)
    exportable, images = _prepare(model, config, raw=inputs == "uint8")
    parity = write_checked(export_format, exportable, path)
    write_text(json_path, to_json(exportable.description))
    print_lines(
        _title(model, form, path),
        _describe_check(
            parity, images.source, "log-probabilities" if exportable.pictures else "logits"
        ),
        f"Wrote {path} and {json_path}",
    )


def _export_hub(
    model: InferenceModel,
    config: RunConfig,
    output: Path | None,
    hub: HubOptions,
    *,
    overwrite: bool,
) -> None:
    folder = output or config.run.paths().export_dir / "hub"
    is_ready = hub.push is not None and folder_checkpoint(folder) == model.sha256
    if is_ready and not overwrite:
        print_lines(f"{folder} holds this checkpoint already, and is uploaded as it is")
    else:
        _check_folder(folder, overwrite=overwrite)
        _write_hub(model, config, folder, hub)
    if hub.push is not None:
        address = push_folder(folder, hub.push, private=hub.private)
        print_lines(f"Uploaded {folder} to {address}")


def _export_space(
    model: InferenceModel, config: RunConfig, output: Path | None, *, overwrite: bool
) -> None:
    folder = output or config.run.paths().export_dir / "space"
    _check_folder(folder, overwrite=overwrite)
    exportable, images = _prepare(model, config)
    val = val_folder(config.run.data_root, config.data.hold_out)
    title = model.path.stem if model.saved_settings is None else config.run.name
    parity, examples = write_space_folder(
        folder, exportable, title=title, images=images.files, decoding=model.decoding
    )
    place = shlex.quote(str(folder))
    print_lines(
        _title(model, "space", folder / MODEL),
        _describe_check(parity, images.source),
        f"Wrote {folder}, with {examples} images of {val} as examples",
        "Try, in a new virtual environment: "
        f"cd {place} && pip install -r requirements.txt && python app.py",
        f"Push, with the examples: hf upload USER/NAME {place} . --repo-type space",
    )


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty and not overwrite:
        raise _exists_error(folder)


def _write_hub(model: InferenceModel, config: RunConfig, folder: Path, hub: HubOptions) -> None:
    exportable, images = _prepare(model, config)
    card = _make_card(model, config.run.paths(), exportable.description, hub)
    parity, checked_with = write_hub_folder(folder, exportable, card)
    print_lines(
        _title(model, "hub", folder / WEIGHTS),
        _describe_check(parity, f"{images.source} with {checked_with}"),
        f"timm loads it: timm.create_model('local-dir:{folder}', pretrained=True)"
        if card.in_timm
        else f"timm has no network with the tensors of this {model.arch}: imgnet-mini"
        f"{' loads' if model.blur_pool else ' and torchvision load'} it",
        f"Wrote {folder}. Its {CARD} names {hub.license_id!r} as license"
        + ("" if hub.license_id != UNKNOWN_LICENSE else ": set it with --license"),
    )


def _make_card(
    model: InferenceModel, paths: RunPaths, description: Description, hub: HubOptions
) -> ModelCard:
    run = result = None
    if paths.train_log.exists() and is_saved_by(paths, model.path, model.sha256):
        run = read_run(paths, paths.export_dir)
        is_best = model.path.resolve() == paths.best.resolve()
        result = find_result(run, model.sha256, is_best=is_best)
    return ModelCard(
        description=description,
        license_id=hub.license_id,
        in_timm=is_in_timm(model.arch) and not model.blur_pool,
        is_imagenet=set(model.classes) <= set(imagenet_classes()),
        run=run,
        result=result,
    )


def _prepare(
    model: InferenceModel, config: RunConfig, *, raw: bool = False
) -> tuple[Exportable, CheckImages]:
    """Return the model to export, and the images to check it on.

    raw: for a model that takes images as they are.
    """

    def build(weights: dict[str, Tensor]) -> nn.Module:
        return build_with_weights(
            ModelConfig(arch=model.arch),
            weights,
            classes=len(model.classes),
            img_size=model.img_size,
        )

    val = val_folder(config.run.data_root, config.data.hold_out)
    images = load_check_images(
        val, model.crop, model.decoding, img_size=model.img_size, keep_pictures=raw
    )
    description = describe(model.arch, model.img_size, model.classes, model.decoding) | {
        "blur_pool": model.blur_pool,
        "checkpoint": model.path.name,
        "checkpoint_sha256": model.sha256,
        "epoch": model.epoch,
    }
    return Exportable(
        model.module,
        build,
        images.crops,
        describe_raw(description) if raw else description,
        images.pictures,
    ), images


def _title(model: InferenceModel, form: str, path: Path) -> str:
    size = format_bytes(path.stat().st_size)
    return f"{model.arch} of {len(model.classes)} classes as {form}: {size}"


def _describe_check(parity: ParityResult, source: str, outputs: str = "logits") -> str:
    return (
        f"Checked on {parity.images} {source}: the same top-1 on all of them, {outputs} within "
        f"{parity.max_difference:.1e}"
    )


def _check_new(files: list[Path], model: InferenceModel, *, overwrite: bool) -> None:
    for file in files:
        if file.resolve() == model.path.resolve():
            raise ConfigError(f"--output {file}: that is the checkpoint itself")
        if file.exists() and not overwrite:
            raise _exists_error(file)


def _exists_error(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists; replace it with --overwrite, or name another one with --output"
    )
