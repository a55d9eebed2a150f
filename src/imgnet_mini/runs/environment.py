"""`environment.json`: written when a run starts, read by `report`, `readme` and `compare`."""

from pydantic import Field

from imgnet_mini.utils.json_file import Count, JsonModel, Text


class RunEnvironment(JsonModel):
    """Machine, versions and data of a run at its start; None: not recorded by an earlier version.

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
