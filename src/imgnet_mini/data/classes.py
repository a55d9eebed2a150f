"""Human names of classes whose folders are ImageNet ids."""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files


def display_names(classes: Iterable[str]) -> list[str]:
    """`n01440764 (tench)` for a folder named by an ImageNet id; any other name as it is."""
    known = _imagenet_names()
    return [f"{name} ({known[name]})" if name in known else name for name in classes]


def human_names(classes: Iterable[str]) -> list[str]:
    """`tench` for a folder named by an ImageNet id; any other name as it is."""
    known = _imagenet_names()
    return [known.get(name, name) for name in classes]


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ids, in the order of the outputs of torchvision's own weights."""
    return tuple(_imagenet_names())


@cache
def _imagenet_names() -> dict[str, str]:
    """The sorted ids meet torchvision's category names, which are in the same order."""
    from torchvision.models import ResNet50_Weights

    ids = files("imgnet_mini.data").joinpath("imagenet_wnids.txt").read_text("utf-8").split()
    return dict(zip(ids, ResNet50_Weights.IMAGENET1K_V2.meta["categories"], strict=True))
