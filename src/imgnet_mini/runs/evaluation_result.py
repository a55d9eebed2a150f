"""`metrics.json`: written by `evaluate`, read by `report` and `readme`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from imgnet_mini.utils.json_file import Count, JsonModel, Text

Views = Literal["center", "hflip", "ten-crop"]
"""Test-time augmentation: the center crop, the mean over it and its flip, or over ten crops."""

_FORMER_VIEWS = {"centre": "center", "mirror": "hflip"}


def _current_name(views: object) -> object:
    return _FORMER_VIEWS.get(views, views) if isinstance(views, str) else views


class EvaluationResult(JsonModel):
    """Loss and accuracies in percent of one checkpoint, and how they were measured.

    imgs_per_sec: validation throughput, in images per second.
    checkpoint: file name; epoch: of its weights, None for a plain state dict.
    img_size: side of the crops, in pixels; resize: short side of the image they are cut from.
    classes: folder names, in the order of the network's outputs.
    """

    cure: ClassVar[str] = "remove it, and `imgnet-mini evaluate` writes it again"

    loss: float
    top1: float
    top5: float
    images: Count
    imgs_per_sec: float
    checkpoint: Text
    checkpoint_sha256: Text
    epoch: Count | None
    arch: Text
    img_size: Count
    resize: Count
    views: Annotated[Views, BeforeValidator(_current_name)] = "center"
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
