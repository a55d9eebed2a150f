"""A trained model loaded from its checkpoint file alone, ready to predict."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from imgnet_mini.checkpoint.load import read_weights
from imgnet_mini.checkpoint.schema import Weights
from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.config.run_config import RunConfig, Tables
from imgnet_mini.data.classes import human_names, imagenet_classes
from imgnet_mini.data.pixels import to_pixels
from imgnet_mini.data.transforms import EvalCrop, Normalize
from imgnet_mini.errors import CheckpointError, ConfigError, DataError
from imgnet_mini.inference.settings import inference_settings
from imgnet_mini.runs.paths import describe_runs
from imgnet_mini.training.blur_pool import has_blur_pool
from imgnet_mini.training.device import exact_float32, is_out_of_memory, translate_torch_errors
from imgnet_mini.training.evaluation import topk_classes
from imgnet_mini.training.model import build_with_weights, check_img_size, last_tensor_name

ImageInput = str | os.PathLike[str] | Image.Image

_TOP_K: Final = 5


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image, most likely first.

    indices: of the model's outputs.
    classes: folder names.
    names: human names for ImageNet ids, else the folder names.
    probabilities: from 0 to 1.
    """

    indices: tuple[int, ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class InferenceModel:
    """A trained model in evaluation mode and float32, with its input size and classes.

    module: takes normalized images (N, 3, S, S) and returns logits (N, C).
    path, sha256: the checkpoint file and its digest.
    img_size: S, in pixels.
    decoding: from an image file to pixels, as in training unless set otherwise.
    classes: folder names, in the order of the outputs.
    has_class_names: false if the file has none, so that `classes` is a guess.
    epoch: after which the weights were saved; None if unknown.
    saved_settings: of the run, as tables; None if the file has none.
    """

    module: nn.Module
    path: Path
    sha256: str
    arch: str
    img_size: int
    decoding: Decoding
    classes: tuple[str, ...]
    has_class_names: bool
    epoch: int | None
    device: torch.device
    saved_settings: Tables | None = None

    def predict(
        self,
        images: Tensor | Sequence[ImageInput],
        *,
        top_k: int | None = None,
        batch_size: int = 64,
    ) -> list[Prediction]:
        """Return the `top_k` most likely classes of each image, in order.

        images: (N, 3, S, S) uint8, RGB; or image files and Pillow images, which are resized and
            cropped as `evaluate` does.
        top_k: by default 5, or all classes if there are fewer.

        Raises:
            DataError: an image cannot be decoded, or a tensor has another shape or dtype.
            ConfigError: `top_k` exceeds the number of classes; the device is out of memory.
        """
        count = self.check_top_k(top_k)
        predictions: list[Prediction] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            pixels = batch if isinstance(batch, Tensor) else self._load(batch)
            predictions += self._predict_batch(pixels, count)
        return predictions

    def _predict_batch(self, batch: Tensor, count: int) -> list[Prediction]:
        if batch.dtype != torch.uint8 or batch.shape[1:] != (3, self.img_size, self.img_size):
            raise DataError(
                f"images are {str(batch.dtype).removeprefix('torch.')} of shape "
                f"{tuple(batch.shape)}: give uint8 of shape (N, 3, {self.img_size}, "
                f"{self.img_size}), or image files"
            )
        with torch.no_grad(), exact_float32(), translate_torch_errors(len(batch)):
            logits = self.module(Normalize(self.device)(batch.to(self.device))).float()
        probabilities = logits.softmax(1)
        top = topk_classes(logits, count)
        rows = zip(top.tolist(), probabilities.gather(1, top).tolist(), strict=True)
        return [self._describe(indices, values) for indices, values in rows]

    def check_top_k(self, top_k: int | None) -> int:
        """Return the number of classes to predict.

        Raises:
            ConfigError: it is below 1 or above the number of classes.
        """
        classes = len(self.classes)
        if top_k is None:
            return min(_TOP_K, classes)
        if not 1 <= top_k <= classes:
            raise ConfigError(
                f"--top-k {top_k}: the model of {self.path} has {classes} classes; use --top-k "
                f"1 to {classes}"
            )
        return top_k

    def _load(self, images: Sequence[ImageInput]) -> Tensor:
        return torch.stack([self._load_image(image) for image in images])

    def _load_image(self, image: ImageInput) -> Tensor:
        """Return an image file or a Pillow image as (3, S, S) uint8."""
        if not isinstance(image, Image.Image):
            return self.crop.load(Path(image))
        try:
            pixels = to_pixels(image, self.decoding)
        except ValueError as error:
            raise DataError(f"cannot use a Pillow image: {error}") from error
        return torch.from_numpy(np.array(self.crop(pixels))).permute(2, 0, 1)

    @property
    def blur_pool(self) -> bool:
        """True if the network is a ResNet with `--blur-pool`."""
        return has_blur_pool(self.module.state_dict())

    @property
    def crop(self) -> EvalCrop:
        """The transform from an image file to the pixels of an input."""
        return EvalCrop(self.img_size, decoding=self.decoding)

    def _describe(self, indices: list[int], probabilities: list[float]) -> Prediction:
        classes = tuple(self.classes[index] for index in indices)
        return Prediction(
            tuple(indices), classes, tuple(human_names(classes)), tuple(probabilities)
        )


def load_inference_model(
    overrides: RunConfig, checkpoint: str, device: torch.device
) -> InferenceModel:
    """Load `best`, `last`, or a file; explicit settings take precedence over those in the file.

    The classes of a plain state dict are counted: a thousand are assumed to be ImageNet's.

    Raises:
        CheckpointError: the file is missing or damaged, holds another network than asked for, or
            claims something impossible.
        ConfigError: neither the file nor `overrides` names the network.
    """
    path = checkpoint_path(checkpoint, overrides)
    weights, sha256 = read_weights(path)
    config = inference_settings(weights, overrides, path)
    try:
        classes = tuple(weights.classes or _guess_classes(config, weights.model, path))
        module = load_network(config, weights, path, classes=len(classes), device=device)
    except ConfigError as error:
        if "model" in overrides.explicit():
            raise
        raise CheckpointError(f"{path} cannot be used: {error}") from error  # the file's settings
    return InferenceModel(
        module,
        path,
        sha256,
        arch=config.model.arch,
        img_size=config.data.eval_size,
        decoding=config.data.decoding,
        classes=classes,
        has_class_names=weights.classes is not None,
        epoch=weights.finished_epoch,
        device=device,
        saved_settings=weights.config,
    )


def checkpoint_path(checkpoint: str, config: RunConfig) -> Path:
    """Return the file that `best`, `last` or a path stands for.

    Raises:
        CheckpointError: it does not exist.
    """
    paths = config.run.paths()
    path = {"best": paths.best, "last": paths.checkpoint}.get(checkpoint, Path(checkpoint))
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}. {describe_runs(paths.output_dir)}. Give another "
            "--name or --output-dir, or a file with --checkpoint PATH, or train the run first"
        )
    return path


def load_network(
    config: RunConfig, weights: Weights, path: Path, *, classes: int, device: torch.device
) -> nn.Module:
    """Build the network and load the weights of a checkpoint or of a plain state dict.

    Raises:
        CheckpointError: the weights are those of another network.
        ConfigError: torchvision has no such network, or it does not take this image size.
    """
    check_img_size(config.model, config.data)
    try:
        model = build_with_weights(
            config.model, weights.model, classes=classes, img_size=config.data.img_size
        )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} does not fit a {config.model.arch} of {classes} classes: "
            f"{_summarize_mismatch(str(error))}"
        ) from error
    return model.to(device)


def _summarize_mismatch(message: str) -> str:
    """Summarize in one sentence what torch's `load_state_dict` lists, line by line."""
    found = []
    for kind, word in (("Missing", "lacks"), ("Unexpected", "has unknown")):
        for line in re.findall(rf"{kind} key\(s\) in state_dict: (.*)", message):
            names = line.split('"')[1::2]
            found.append(f"it {word} {len(names)} tensors, such as {names[0]}")
    sizes = re.findall(
        r"size mismatch for (\S+): .*?torch.Size\((.*?)\).*?torch.Size\((.*?)\)", message
    )
    if sizes:
        name, ours, theirs = sizes[0]
        others = f", and {len(sizes) - 1} others differ too" if len(sizes) > 1 else ""
        found.append(f"its {name} has the shape {ours}, not {theirs}{others}")
    return "; ".join(found) or message.splitlines()[-1].strip()


def _guess_classes(config: RunConfig, weights: dict[str, Tensor], path: Path) -> tuple[str, ...]:
    """Return class names for a network whose file has none."""
    # The last tensor of the network need not be that of the file: safetensors sorts by name.
    name = last_tensor_name(config.model, img_size=config.data.img_size)
    last = weights[name] if name in weights else [*weights.values()][-1]
    if not last.numel() or not last.ndim:
        raise CheckpointError(f"{path} does not end with a classification layer")
    if len(last) == len(imagenet_classes()):
        return imagenet_classes()
    return tuple(f"class {number}" for number in range(len(last)))
