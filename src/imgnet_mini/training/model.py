"""Building networks of torchvision."""

import difflib
import hashlib

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.blur_pool import add_blur_pool, has_blur_pool

_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
_FIXED_SIZE_PREFIXES = ("maxvit_", "vit_")
"""Of the names of networks that take images of one size only."""

_RESNET_MODULE = "torchvision.models.resnet"
"""Its networks take `zero_init_residual` and `blur_pool`."""


def build_model(
    model: ModelConfig, *, classes: int, img_size: int, seed: int, device: torch.device
) -> nn.Module:
    """Return a new torchvision network, channels last, with the same weights on every device.

    Raises:
        ConfigError: torchvision has no such classification network, or it does not take this image
            size, `zero_init_residual` or `blur_pool`.
    """
    torch.manual_seed(seed)
    network = _make(
        model, classes=classes, img_size=img_size, zero_init_residual=model.zero_init_residual
    )
    if model.blur_pool:
        _check_resnet("blur-pool", model.arch)
        add_blur_pool(network)
    if model.dropout:
        _add_dropout(network, model.dropout)
    return network.to(device).to(memory_format=torch.channels_last)


def build_with_weights(
    model: ModelConfig, weights: dict[str, Tensor], *, classes: int, img_size: int
) -> nn.Module:
    """Return the network with these weights, in float32, evaluation mode and channels last.

    No memory is allocated beside that of the weights, however large the network claims to be. The
    names of the weights tell whether it has `blur_pool`.

    Raises:
        ConfigError: see `build_model`.
        RuntimeError: the weights belong to another network.
    """
    network = _make_empty(model, classes=classes, img_size=img_size)
    if has_blur_pool(weights) and _is_resnet(model.arch):
        with torch.device("meta"):
            add_blur_pool(network)
    network.load_state_dict(weights, assign=True)
    return network.float().to(memory_format=torch.channels_last).eval()


def last_tensor_name(model: ModelConfig, *, img_size: int) -> str:
    """Return the name of the last tensor of the network, which has a row per class.

    Raises:
        ConfigError: see `build_model`.
    """
    return [*_make_empty(model, classes=2, img_size=img_size).state_dict()][-1]


def _make_empty(model: ModelConfig, *, classes: int, img_size: int) -> nn.Module:
    """Return the network without memory for its weights, if it can be built so."""
    try:
        with torch.device("meta"):
            return _make(model, classes=classes, img_size=img_size)
    except NotImplementedError:  # RegNets read tensor values while they are built
        return _make(model, classes=classes, img_size=img_size)


def check_img_size(model: ModelConfig, data: DataConfig) -> None:
    """Check that a network with a fixed image size is given no other size.

    Raises:
        ConfigError: the settings have other sizes.
    """
    if not model.arch.startswith(_FIXED_SIZE_PREFIXES):
        return
    if data.progressive is not None:
        raise ConfigError(
            f"--progressive {data.progressive}: {model.arch} takes images of one size only; leave "
            "it out, or choose another --arch"
        )
    if data.eval_size != data.img_size:
        raise ConfigError(
            f"--eval-size {data.eval_size}: {model.arch} takes images of one size only; leave "
            f"it out to evaluate at --img-size {data.img_size}, or choose another --arch"
        )


def _make(
    model: ModelConfig, *, classes: int, img_size: int, zero_init_residual: bool = False
) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if model.arch not in known:
        nearest = difflib.get_close_matches(model.arch, known, n=3)
        hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
        raise ConfigError(f"--arch {model.arch}: torchvision has no such network{hint}")
    options: dict[str, object] = {"weights": None, "num_classes": classes}
    if model.arch in _WITH_AUXILIARY_HEADS:
        options |= {"aux_logits": False, "init_weights": True}
    if zero_init_residual:  # Goyal et al. 2017, arXiv:1706.02677, section 5.1
        _check_resnet("zero-init-residual", model.arch)
        options["zero_init_residual"] = True
    if model.arch.startswith("vit_"):
        options["image_size"] = img_size
    try:
        network: nn.Module = torchvision.models.get_model(model.arch, **options)
    except NotImplementedError:  # of torch's meta device
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--arch {model.arch} with --img-size {img_size}: {error}") from error
    return network


def _add_dropout(network: nn.Module, probability: float) -> None:
    """Drop features before the layer that returns the logits; the names of the weights stay."""

    def drop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return F.dropout(inputs[0], probability, layer.training)

    find_classifier(network).register_forward_pre_hook(drop)


def _is_resnet(arch: str) -> bool:
    module: str = torchvision.models.get_model_builder(arch).__module__
    return module == _RESNET_MODULE


def _check_resnet(flag: str, arch: str) -> None:
    if not _is_resnet(arch):
        raise ConfigError(
            f"--{flag} is for the ResNets of torchvision, and not for {arch}: use --no-{flag}, or "
            "choose one of them with --arch, such as resnet50"
        )


def find_classifier(network: nn.Module) -> nn.Module:
    """Return the layer that returns the logits: the last linear layer or convolution."""
    return [one for one in network.modules() if isinstance(one, nn.Linear | nn.Conv2d)][-1]


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with SyncBatchNorm, whose statistics are those of all ranks.

    Raises:
        ConfigError: torch has no SyncBatchNorm for this device.
    """
    if device.type != "cuda":
        raise ConfigError(f"--sync-bn needs GPUs, and this run is on {device.type}: leave it out")
    network: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return network


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of all names, weights and buffers, as hex digits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
