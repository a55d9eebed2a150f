"""Class activation maps: the parts of an image that speak for a class.

The map is Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) of the last feature map, scaled so
that for global average pooling and a linear layer, as in a ResNet, it is CAM (Zhou et al. 2016,
arXiv:1512.04150): its mean over the positions, plus the bias, is the logit. Libraries for it
(captum, grad-cam) leave the choice of the feature map to the caller; the rest takes ten lines.
"""

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from imgnet_mini.data.images import read_image
from imgnet_mini.data.transforms import Normalize
from imgnet_mini.errors import ConfigError
from imgnet_mini.inference.model import InferenceModel
from imgnet_mini.reporting.heat_map import draw_heat_map, to_jpeg
from imgnet_mini.training.device import exact_float32, translate_torch_errors
from imgnet_mini.utils.atomic_file import atomic_write

_LONGEST_SIDE = 1024
"""Of a picture that is written, in pixels."""


def class_activation_maps(network: nn.Module, images: Tensor, classes: Sequence[int]) -> Tensor:
    """Return a map per image, (N, H, W) float32: the share of each position in a logit.

    network: in evaluation mode; images: (N, 3, S, S), normalized; classes: N of its outputs.

    Raises:
        ConfigError: the network has no feature map before its last layers, or one of one position.
    """
    layer = _last_feature_layer(network, images[:1])
    found: list[Tensor] = []

    def begin_graph(_: nn.Module, __: object, features: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # until `no_grad` ends: the layers before need no graph
        found.append(features.detach().requires_grad_().clone())  # layers may work in place
        return found[0]

    with torch.no_grad():
        handle = layer.register_forward_hook(begin_graph)
        try:
            logits = network(images)
        finally:
            handle.remove()
        rows = torch.arange(len(images), device=images.device)
        chosen = logits[rows, torch.tensor(classes, device=images.device)]
        (gradients,) = torch.autograd.grad(chosen.sum(), found)
    weights = gradients.sum((2, 3), keepdim=True)
    return (weights * found[0].detach()).sum(1).float()


def _last_feature_layer(network: nn.Module, images: Tensor) -> nn.Module:
    """Return the layer or block whose output, (N, C, H, W), is pooled for the last layers.

    Looks at the children of the network and their children, which are run one after another.
    """
    layers: list[tuple[nn.Module, torch.Size]] = []
    is_pooled = False

    def note(layer: nn.Module, _: object, output: object) -> None:
        nonlocal is_pooled
        is_pooled |= isinstance(layer, nn.AdaptiveAvgPool2d)
        if not is_pooled and isinstance(output, Tensor):
            if output.ndim == 3:  # tokens: what came before is no map of the answer
                layers.clear()
            elif output.ndim == 4:
                layers.append((layer, output.shape))

    children = list(network.children())
    inner = [child for parent in children for child in parent.children()]
    handles = [layer.register_forward_hook(note) for layer in (*children, *inner)]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    if not layers:
        raise ConfigError(
            f"a {type(network).__name__} has no feature map before its last layers, as class "
            "activation maps need: its tokens are not positions of the image"
        )
    layer, shape = layers[-1]
    if shape[2:].numel() == 1:
        raise ConfigError(
            f"images of {images.shape[-1]} pixels leave one position in the last feature map, and "
            "class activation maps need several: train with a larger --img-size"
        )
    return layer


def heat_maps(
    model: InferenceModel, pixels: Tensor, classes: Sequence[int], *, hflip: bool = False
) -> NDArray[np.float32]:
    """Return what speaks for a class in each image, (N, H, W), from 0 to 1, the strongest place.

    pixels: (N, 3, S, S) uint8; hflip: average over the image and its horizontal flip.

    Raises:
        ConfigError: see `class_activation_maps`; the device is out of memory.
    """
    with exact_float32(), translate_torch_errors(len(pixels)):
        images = Normalize(model.device)(pixels.to(model.device))
        maps = class_activation_maps(model.module, images, classes)
        if hflip:
            flipped = class_activation_maps(model.module, images.flip(3), classes)
            maps = (maps + flipped.flip(2)) / 2
    maps = maps.clamp(min=0)
    strongest = maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    heat: NDArray[np.float32] = (maps / strongest).cpu().numpy()
    return heat


def draw_heat_maps(
    model: InferenceModel,
    files: Sequence[Path],
    pixels: Tensor,
    classes: Sequence[int],
    *,
    hflip: bool = False,
) -> list[Image.Image]:
    """Return each image, of at most 1024 pixels a side, with the heat map of a class over it.

    files: of the images; pixels: (N, 3, S, S) uint8, their crops; hflip: see `heat_maps`.

    Raises:
        ConfigError: see `class_activation_maps`.
    """
    drawn = []
    maps = heat_maps(model, pixels, classes, hflip=hflip)
    for file, heat in zip(files, maps, strict=True):
        image = read_image(file, model.decoding)
        region = model.crop.region(*image.size)
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        drawn.append(draw_heat_map(image, heat, region))
    return drawn


class HeatMapWriter:
    """Writes a picture per image into a folder: the image with the heat map of a class over it."""

    def __init__(self, model: InferenceModel, folder: Path) -> None:
        """Check that the network has such maps.

        Raises:
            ConfigError: see `class_activation_maps`.
        """
        self._model, self._folder = model, folder
        self._names: set[str] = set()
        side = model.img_size
        heat_maps(model, torch.zeros(1, 3, side, side, dtype=torch.uint8), [0])

    def write(self, files: Sequence[Path], pixels: Tensor, classes: Sequence[int]) -> None:
        """Write the pictures of a batch.

        files: of the images; pixels: (N, 3, S, S) uint8, their crops; classes: to explain.

        Raises:
            WriteError: a picture cannot be written.
        """
        pictures = draw_heat_maps(self._model, files, pixels, classes)
        for file, picture in zip(files, pictures, strict=True):
            with atomic_write(self._folder / self._new_name(file)) as output:
                output.write(to_jpeg(picture))

    def _new_name(self, file: Path) -> str:
        """Return a name that no other picture has; files of two folders may share one."""
        stem = file.stem[:60]
        numbers = chain([""], map("-{}".format, count(2)))
        name = next(name for n in numbers if (name := f"{stem}{n}.cam.jpg") not in self._names)
        self._names.add(name)
        return name
