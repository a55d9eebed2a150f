"""Settings of data loading, augmentation and packs."""

import shlex
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field

from imgnet_mini.config.fields import (
    Background,
    Count,
    Formerly,
    Progressive,
    TrainingOnly,
    default_eval_size,
    default_workers,
)
from imgnet_mini.config.section import Section


class Decoding(Section):
    """From an image file to a square of RGB pixels, in training and with the trained network."""

    exif_orientation: bool = True
    """Rotate images by their EXIF orientation; off: use them as stored."""

    background: Background = "white"
    """Color behind transparent images: a name or #rrggbb; none: ignore transparency."""

    bit_depth: Annotated[int | None, Ge(8), Le(32)] = None
    """Significant bits of 16- and 32-bit images, such as 12; unset: as declared in the file."""

    fit: Literal["crop", "pad", "squash"] = "crop"
    """Square from an image: crop the longer side, pad the shorter one with the background color, or
    squash (without the aspect ratio)."""

    @property
    def flags(self) -> str:
        """The flags of these settings, with a leading space."""
        flag = "--exif-orientation" if self.exif_orientation else "--no-exif-orientation"
        bits = "" if self.bit_depth is None else f" --bit-depth {self.bit_depth}"
        fit = "" if self.fit == "crop" else f" --fit {self.fit}"
        return f" {flag} --background {shlex.quote(self.background)}{bits}{fit}"


EARLIER_DECODING: Final = Decoding(exif_orientation=False, background="none", bit_depth=16)
"""Of runs and packs of version 0.2.0 and before, and of torchvision's ImageFolder."""

DEFAULT_DECODING: Final = Decoding()


def with_saved_decoding(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings of a saved run, with the decoding that its version had."""
    data = tables.get("data", {})
    if "exif_orientation" in data:
        return tables
    return tables | {"data": EARLIER_DECODING.model_dump() | data}


class HoldOut(Section):
    """Choice of the training images that are held out for validation."""

    val_split: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Hold out this fraction of the training images for validation, stratified; 0: use val/."""

    val_split_seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Seed of the choice of held-out images, apart from the seed of the training."""

    @property
    def flags(self) -> str:
        """The flags of these settings, with a leading space; empty if no images are held out."""
        seed = f" --val-split-seed {self.val_split_seed}" if self.val_split_seed else ""
        return f" --val-split {self.val_split:g}{seed}" if self.val_split else ""


NO_HOLD_OUT: Final = HoldOut()


class DataConfig(HoldOut, Decoding):
    """Decoding, loading and augmentation of images."""

    @property
    def decoding(self) -> Decoding:
        """The settings from an image file to its pixels alone."""
        return Decoding(**{name: getattr(self, name) for name in Decoding.model_fields})

    @property
    def hold_out(self) -> HoldOut:
        """The settings of held-out images alone."""
        return HoldOut(**{name: getattr(self, name) for name in HoldOut.model_fields})

    batch_size: Count = 64
    """Images per training step, over all processes."""

    grad_accum_steps: Annotated[Count, Formerly("accumulate")] = 1
    """Gradient accumulation: split each batch into this many micro-batches to save memory."""

    img_size: Annotated[int, Ge(32)] = 224
    """Side of the square training crop, in pixels."""

    workers: Annotated[int, Ge(0)] = Field(default_factory=default_workers)
    """Worker processes that decode images, or threads that read a pack; 0: the main process."""

    crop_scale_min: Annotated[float, Gt(0), Le(1), Formerly("min_crop"), TrainingOnly()] = 0.08
    """Minimum area of a random resized crop, as a fraction of the image."""

    flip: Annotated[bool, TrainingOnly()] = True
    """Flip training images horizontally at random; not for digits, letters or traffic signs."""

    use_class_style_aug: Annotated[bool, TrainingOnly()] = False
    """Add a small random affine transform and one small erased rectangle."""

    loader: Literal["auto", "folder", "pack"] = "auto"
    """Source of the images; auto: the pack if it exists and is up to date, else the folder."""

    skip_bad: bool = False
    """Skip images that cannot be decoded instead of stopping; without a pack, decodes all first."""

    allow_missing_val_classes: bool = False
    """Accept a val/ folder that lacks classes of train/."""

    pack_on_device: Literal["auto", "on", "off"] = "auto"
    """Keep the pack in GPU memory; auto: if enough memory is free."""

    progressive: Progressive = None
    """Progressive resizing: first and last training size, such as 160:224 or 0.7:1 (relative)."""

    eval_size: Annotated[int, Ge(32)] = Field(default_factory=default_eval_size)
    """Side of the center crop for evaluation and inference, in pixels."""

    trivial_augment: Annotated[bool, TrainingOnly()] = False
    """Apply TrivialAugment: one random geometric or color transform per training image."""

    random_erasing: Annotated[float, Ge(0), Le(1), TrainingOnly()] = 0.0
    """Probability of filling 2 to 33 % of a training image with the mean color (a rectangle)."""

    mixup: Annotated[float, Ge(0), TrainingOnly()] = 0.0
    """Mixup alpha (Beta distribution); 0: off."""

    cutmix: Annotated[float, Ge(0), TrainingOnly()] = 0.0
    """CutMix alpha (Beta distribution); 0: off. With mixup, each batch gets one of the two."""


class PrepareConfig(Section):
    """Settings of `prepare`."""

    pack_size: Annotated[int | None, Ge(32), Le(2048)] = None
    """Side of the packed training images; unset: 1.5 x img_size, at most the longest image side."""
