"""Human names of classes whose folders are ImageNet ids."""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files


def display_names(classes: Iterable[str]) -> list[str]:
    """Return `n01440764 (tench)` for an ImageNet id, and any other name unchanged."""
    known = _imagenet_names()
    return [f"{name} ({known[name]})" if name in known else name for name in classes]


def human_names(classes: Iterable[str]) -> list[str]:
    """Return `tench` for an ImageNet id, and any other name unchanged."""
    known = _imagenet_names()
    return [known.get(name, name) for name in classes]


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 ImageNet ids, in the order of the outputs of torchvision's weights."""
    return tuple(_imagenet_names())


@cache
def _imagenet_names() -> dict[str, str]:
    """Map ImageNet ids to torchvision's category names, which are in the order of sorted ids."""
    from torchvision.models import ResNet50_Weights

    ids = files("imgnet_mini.data").joinpath("imagenet_wnids.txt").read_text("utf-8").split()
    return dict(zip(ids, ResNet50_Weights.IMAGENET1K_V2.meta["categories"], strict=True))
