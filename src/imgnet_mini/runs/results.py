"""JSON files of a run, shared by their writers and readers."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from imgnet_mini.utils.json_file import Count, JsonModel, Text

Views = Literal["center", "hflip", "ten-crop"]
"""Test-time augmentation: the center crop, the mean over it and its flip, or over ten crops."""

_FORMER_VIEWS = {"centre": "center", "mirror": "hflip"}


def _current_name(views: object) -> object:
    return _FORMER_VIEWS.get(views, views) if isinstance(views, str) else views


class RunEnvironment(JsonModel):
    """`environment.json`: machine, versions and data of a run at its start.

    Fields are None if the version of imgnet-mini that started the run did not record them.

    started: local time, ISO 8601.
    device: in words; device_type: torch's name, such as `cuda`.
    classes, train_images, val_images, parameters: counts.
    loader: where the images were read from; skipped: one line for each unusable image file.
    command: as it was typed, word by word.
    """

    started: Text | None = None
    device: Text | None = None
    device_type: Text | None = None
    precision: Text | None = None
    threads: Count | None = None
    world_size: Count | None = None
    system: Text | None = None
    python: Text | None = None
    torch: Text | None = None
    torchvision: Text | None = None
    pillow: Text | None = None
    imgnet_mini: Text | None = None
    classes: Count | None = None
    train_images: Count | None = None
    val_images: Count | None = None
    loader: Text | None = None
    skipped: tuple[Text, ...] = Field(default=(), strict=False)
    parameters: Count | None = None
    command: tuple[Text, ...] = Field(default=(), strict=False)
    recipe: Text | None = None


class CenterCrop(JsonModel):
    """Results of the center crop alone, beside those of several views of each image.

    gain: top-1 of the views minus that of the center crop, in percentage points; gain_low,
    gain_high: its 95 % interval, from the images that only one of them has right.
    """

    loss: float
    top1: float
    balanced_top1: float | None = None
    top5: float
    gain: float
    gain_low: float
    gain_high: float


class EvaluationResult(JsonModel):
    """`metrics.json` of `evaluate`: loss and accuracies of one checkpoint, in percent.

    balanced_top1: mean top-1 of the classes that have images; None in files of earlier versions.
    imgs_per_sec: validation throughput, in images per second.
    checkpoint: file name; epoch: of its weights, None for a plain state dict.
    img_size: side of the crops, in pixels; resize: short side of the image they are cut from.
    fit: how images become squares; without a crop, `resize` is the side of the square.
    classes: folder names, in the order of the network's outputs.
    center: None if the views are the center crop alone.
    """

    cure: ClassVar[str] = "remove it, and `imgnet-mini evaluate` writes it again"

    loss: float
    top1: float
    balanced_top1: float | None = None
    top5: float
    images: Count
    imgs_per_sec: float
    checkpoint: Text
    checkpoint_sha256: Text
    epoch: Count | None
    arch: Text
    img_size: Count
    resize: Count
    fit: Literal["crop", "pad", "squash"] = "crop"
    views: Annotated[Views, BeforeValidator(_current_name)] = "center"
    center: CenterCrop | None = None
    precision: Text
    device: Text
    torch: Text
    classes: tuple[Text, ...] = Field(strict=False)

    @model_validator(mode="before")
    @classmethod
    def _read_former_flag(cls, values: Any) -> Any:
        """Read `tta`, which stood for the horizontal flip before there were ten crops."""
        if isinstance(values, dict) and values.get("tta") is True:
            return {"views": "hflip", **values}
        return values
