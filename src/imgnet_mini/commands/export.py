"""export: write a trained model in another format, and check the file."""

import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.data.classes import imagenet_classes
from imgnet_mini.data.tree import val_folder
from imgnet_mini.errors import ConfigError
from imgnet_mini.export.check_images import find_images, load_check_images
from imgnet_mini.export.formats import (
    FORMATS,
    HUB,
    Description,
    ExportFormat,
    describe,
    to_json,
)
from imgnet_mini.export.hub import (
    CARD,
    UNKNOWN_LICENSE,
    WEIGHTS,
    check_repository,
    folder_checkpoint,
    is_in_timm,
    push_folder,
)
from imgnet_mini.export.hub_folder import write_hub_folder
from imgnet_mini.export.parity import ParityResult
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


@dataclass(frozen=True)
class HubOptions:
    """Options of `--format hub`.

    push: repository to upload the folder to; None: nothing is uploaded.
    private: make a new repository private.
    license_id: of the weights, for the model card.
    """

    push: str | None = None
    private: bool = False
    license_id: str = UNKNOWN_LICENSE


def run(
    overrides: RunConfig,
    *,
    checkpoint: str = "best",
    form: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    hub: HubOptions | None = None,
) -> None:
    """Export a checkpoint, check the file on images, and write a JSON description beside it.

    form: a key of `FORMATS`, `hub` or `space`; by default from the suffix of `output`, else `pt2`.
    output: the file or folder to write; by default named after the checkpoint, in
        `exports/<name>/` of the run that saved it.
    hub: options of the form `hub`.

    Raises:
        ConfigError: the file exists, the format is unknown, or its packages are not installed.
        CheckpointError: see `load_inference_model`.
        ExportError: the exported model does not match; the file is removed.
        WriteError: the file cannot be written or uploaded.
    """
    form = _choose_format(form, output)
    _check_packages(form, FORMATS["onnx" if form == "space" else form] if form != "hub" else HUB)
    hub = _check_hub_options(form, hub or HubOptions())
    model = load_inference_model(overrides, checkpoint, _CPU)
    config = checkpoint_settings(overrides, checkpoint, model.path, model.saved_settings)
    if form == "hub":
        _export_hub(model, config, output, hub, overwrite=overwrite)
    elif form == "space":
        _export_space(model, config, output, overwrite=overwrite)
    else:
        _export_file(model, config, form, output, overwrite=overwrite)


def _export_file(
    model: InferenceModel, config: RunConfig, form: str, output: Path | None, *, overwrite: bool
) -> None:
    export_format = FORMATS[form]
    path = output or config.run.paths().export_dir / f"{model.path.stem}{export_format.suffix}"
    json_path = path.with_name(f"{path.name}.json")
    _check_new([path, json_path], model, overwrite=overwrite)
    exportable, source = _prepare(model, config)
    parity = write_checked(export_format, exportable, path)
    write_text(json_path, to_json(exportable.description))
    print_lines(
        _title(model, form, path),
        _describe_check(parity, source),
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
    exportable, source = _prepare(model, config)
    val = val_folder(config.run.data_root)
    title = model.path.stem if model.saved_settings is None else config.run.name
    parity, examples = write_space_folder(
        folder, exportable, title=title, images=find_images(val), decoding=model.decoding
    )
    place = shlex.quote(str(folder))
    print_lines(
        _title(model, "space", folder / MODEL),
        _describe_check(parity, source),
        f"Wrote {folder}, with {examples} images of {val} as examples",
        f"Try: cd {place} && pip install -r requirements.txt && python app.py",
        f"Push, with the examples: hf upload USER/NAME {place} . --repo-type space",
    )


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty and not overwrite:
        raise ConfigError(
            f"{folder} exists; replace it with --overwrite, or name another one with --output"
        )


def _write_hub(model: InferenceModel, config: RunConfig, folder: Path, hub: HubOptions) -> None:
    exportable, source = _prepare(model, config)
    card = _make_card(model, config.run.paths(), exportable.description, hub)
    parity, checked_with = write_hub_folder(folder, exportable, card)
    print_lines(
        _title(model, "hub", folder / WEIGHTS),
        _describe_check(parity, f"{source} with {checked_with}"),
        f"timm loads it: timm.create_model('local-dir:{folder}', pretrained=True)"
        if card.in_timm
        else f"timm has no network with the tensors of {model.arch}: imgnet-mini and torchvision "
        "load it",
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
        in_timm=is_in_timm(model.arch),
        is_imagenet=set(model.classes) <= set(imagenet_classes()),
        run=run,
        result=result,
    )


def _prepare(model: InferenceModel, config: RunConfig) -> tuple[Exportable, str]:
    """Return the model with images to check it on, and where these are from."""

    def build(weights: dict[str, Tensor]) -> nn.Module:
        return build_with_weights(
            ModelConfig(arch=model.arch),
            weights,
            classes=len(model.classes),
            img_size=model.img_size,
        )

    val = val_folder(config.run.data_root)
    images, source = load_check_images(val, model.crop, img_size=model.img_size)
    description = describe(model.arch, model.img_size, model.classes, model.decoding) | {
        "checkpoint": model.path.name,
        "checkpoint_sha256": model.sha256,
        "epoch": model.epoch,
    }
    return Exportable(model.module, build, images, description), source


def _title(model: InferenceModel, form: str, path: Path) -> str:
    size = format_bytes(path.stat().st_size)
    return f"{model.arch} of {len(model.classes)} classes as {form}: {size}"


def _describe_check(parity: ParityResult, source: str) -> str:
    return (
        f"Checked on {parity.images} {source}: the same top-1 on all of them, logits within "
        f"{parity.max_difference:.1e}"
    )


def _choose_format(form: str | None, output: Path | None) -> str:
    if form is None:
        suffixes = {known.suffix: name for name, known in FORMATS.items()}
        form = suffixes.get(output.suffix.lower(), "pt2") if output is not None else "pt2"
    names = [*FORMATS, "hub", "space"]
    if form not in names:
        raise ConfigError(f"--format {form}: choose one of {', '.join(names)}")
    return form


def _check_hub_options(form: str, hub: HubOptions) -> HubOptions:
    if form != "hub" and hub != HubOptions():
        raise ConfigError(
            f"--push, --private and --license are for --format hub, not for --format {form}"
        )
    if hub.private and hub.push is None:
        raise ConfigError("--private is for a repository that --push makes: add --push REPO")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", hub.license_id):
        raise ConfigError(
            f"--license {hub.license_id}: give an identifier of the Hugging Face Hub, such as mit, "
            "apache-2.0 or cc-by-nc-4.0"
        )
    if hub.push is not None:
        check_repository(hub.push)
    return hub


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
