"""The settings, each written once: type, bounds, default and help.

The command line, the TOML file and the builders all read these classes. A section is one
table of the file, one panel of `--help`, and the one argument that its builder takes.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.torchrun_env import local_world_size_from_env

Count = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class Formerly:
    """Metadata of a renamed setting: its earlier name, still read from files, flags and runs."""

    name: str


def _run_name(name: str) -> str:
    """A name that is one plain folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) or name.endswith("."):
        raise ValueError(
            "a run name has 1 to 64 letters, digits, '.', '_' or '-', and neither starts with "
            "'.' or '-' nor ends with '.'"
        )
    if re.fullmatch(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", name, re.IGNORECASE):
        raise ValueError("Windows keeps this name for a device")
    return name


def _peak_lr(value: Any) -> Any:
    """A rate above 0, or the word `auto`."""
    if value is None or value == "auto":
        return value
    try:
        lr = float(value)
    except (TypeError, ValueError):
        lr = 0.0
    if not 0 < lr < float("inf"):
        raise ValueError("must be a learning rate above 0, or 'auto'")
    return lr


def _growing_sides(sides: str | None) -> str | None:
    """Two sides, the first of 32 pixels or more and below the second; or both as shares."""
    if sides is None or re.fullmatch(r"0?\.\d{1,6}:1", sides, re.ASCII):
        return sides
    found = re.fullmatch(r"(\d{1,5}):(\d{1,5})", sides, re.ASCII)
    if not found or not 32 <= int(found[1]) < int(found[2]):
        raise ValueError(
            "must be two sides in pixels, the first 32 or more and the second above it, such as "
            "160:224; or the first as a share of the second, such as 0.7:1"
        )
    return sides


def available_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """One for each processor that is this process's share of the machine's; eight at the most."""
    return max(1, min(8, available_cpus() // local_world_size_from_env()))


def _img_size_of(validated: dict[str, Any]) -> int:
    return int(validated.get("img_size", 0))  # missing where it is invalid itself


class Section(BaseModel):
    """Frozen settings; an unknown one is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RunSection(Section):
    """Which images, under which name, and where everything is written."""

    data_root: Path = Path("data/imagenet-mini")
    """Folder that holds train/ and val/, each with one subfolder per class."""

    pack_dir: Path | None = None
    """Folder of the images that `prepare` has packed; unset: pack/ in the data root."""

    name: Annotated[str, AfterValidator(_run_name)] = "r50_onecycle_amp"
    """Name of the run, and of its folders."""

    output_dir: Path = Path()
    """Folder in which checkpoints/, out/, runs/ and reports/ are made."""

    def paths(self) -> RunPaths:
        """Return the paths of the files of this run.

        Raises:
            ConfigError: a folder of the run is a link out of the output folder.
        """
        paths = RunPaths(self.output_dir, self.name)
        paths.check_links()
        return paths

    @property
    def pack(self) -> Path:
        """Where the pack of these images is, or would be."""
        return self.pack_dir if self.pack_dir is not None else self.data_root / "pack"


class DataConfig(Section):
    """How images become batches."""

    batch_size: Count = 64
    """Images per step, on all processes together."""

    grad_accum_steps: Annotated[Count, Formerly("accumulate")] = 1
    """Parts of each batch that go through the network one after the other: less memory."""

    img_size: Annotated[int, Ge(32)] = 224
    """Side of the square crop, in pixels."""

    workers: Annotated[int, Ge(0)] = Field(default_factory=default_workers)
    """Processes that decode images, or threads that read a pack; 0 works in the main process."""

    crop_scale_min: Annotated[float, Gt(0), Le(1), Formerly("min_crop")] = 0.08
    """Smallest share of an image's area that a random crop of training keeps."""

    flip: bool = True
    """Mirror half of the training images; not for digits, letters or traffic signs."""

    use_class_style_aug: bool = False
    """Add a small affine warp and one small erased hole to the random crop and flip."""

    loader: Literal["auto", "folder", "pack"] = "auto"
    """Where images come from; auto takes the pack where it is there and up to date."""

    skip_bad: bool = False
    """Leave out images that cannot be decoded, instead of stopping; without a pack, decodes all."""

    allow_missing_val_classes: bool = False
    """Let val/ lack classes that train/ has."""

    pack_on_device: Literal["auto", "on", "off"] = "auto"
    """Keep the pack in the GPU's memory; auto: where training leaves room for it."""

    progressive: Annotated[str | None, AfterValidator(_growing_sides)] = None
    """Sides of the training images: small at first, such as 160:224, or 0.7:1 of img_size."""

    eval_size: Annotated[int, Ge(32)] = Field(default_factory=_img_size_of)
    """Side of the center crop for evaluation and inference, in pixels."""

    trivial_augment: bool = False
    """TrivialAugment: shear, shift, turn or recolour each training image, in one way at random."""

    random_erasing: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a rectangle of 2 to 33 % of a training image takes the mean colour."""

    mixup: Annotated[float, Ge(0)] = 0.0
    """Blend pairs of training images and labels: alpha of the Beta distribution; 0 is off."""

    cutmix: Annotated[float, Ge(0)] = 0.0
    """Paste a part of one image into another: alpha as of mixup; with both, one a batch."""


class PrepareConfig(Section):
    """How `prepare` packs the images."""

    pack_size: Annotated[int | None, Ge(32), Le(2048)] = None
    """Side of the squares that training images become; unset: 3/2 of img_size, at most theirs."""


class ModelConfig(Section):
    """What is trained."""

    arch: str = "resnet50"
    """Any classification network of torchvision."""

    zero_init_residual: Annotated[bool, Formerly("zero_init")] = False
    """Start each residual block of a ResNet as the identity: its last norm at zero."""


class OptimizerConfig(Section):
    """What is minimised, and how the weights move."""

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of SGD."""

    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """Weight decay (L2 penalty) of SGD."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of each target that is spread over all the classes."""

    nesterov: bool = False
    """Nesterov's momentum."""

    norm_decay: bool = True
    """Weight decay also on norms and biases."""

    clip_grad: Annotated[float | None, Gt(0), Formerly("clip_norm")] = None
    """Largest norm of the gradient of a step; a longer one is cut to it. Unset: none is."""

    ema_decay: Annotated[float, Ge(0), Lt(1), Formerly("ema")] = 0.0
    """Decay of the moving average of the weights that is validated and kept as best; 0: none."""

    @model_validator(mode="after")
    def _has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError(
                "--nesterov needs a --momentum above 0, such as 0.9, and it is 0: raise it, or "
                "leave --nesterov out"
            )
        return self


class ScheduleConfig(Section):
    """How long training lasts, and how the learning rate rises and falls (OneCycle)."""

    epochs: Count = 20
    """Passes over the training images."""

    max_lr: Annotated[float | Literal["auto"] | None, BeforeValidator(_peak_lr)] = None
    """Peak learning rate, above 0; unset: 0.1 x batch size / 256; auto: find-lr's last."""

    pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of all steps in which the rate rises."""

    div_factor: Annotated[float, Ge(1)] = 25.0
    """The first rate is the peak divided by this."""

    final_div_factor: Annotated[float, Ge(1)] = 1e4
    """The last rate is the first divided by this."""


class ResolvedSchedule(ScheduleConfig):
    """The schedule with its peak learning rate as a number."""

    max_lr: Annotated[float, Gt(0)]
    """Peak learning rate."""


class CheckpointConfig(Section):
    """How often a run is saved, and how much of it is kept."""

    keep: Annotated[int, Ge(0)] = 2
    """Newest checkpoints to keep, beside the best; 1 leaves none to fall back on, 0 keeps all."""

    save_minutes: Annotated[float, Gt(0)] = 10.0
    """Save inside an epoch too, when so much time has passed since the last checkpoint."""


class FinderConfig(Section):
    """The learning-rate range test, and the short trainings after it."""

    start_lr: Annotated[float, Gt(0)] = 1e-7
    """Rate of the first step."""

    end_lr: Annotated[float, Gt(0)] = 1.0
    """Rate of the last step."""

    num_iter: Annotated[int, Ge(2)] = 100
    """Steps, each at a rate higher than the last by the same factor."""

    trials: Annotated[int, Ge(0)] = 6
    """Short trainings, at the most, that compare peak rates; 0 makes the range test alone."""

    trial_steps: Annotated[int, Ge(20)] = 100
    """Steps of each of them: a whole one-cycle schedule."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.end_lr <= self.start_lr:
            raise ValueError(f"end_lr ({self.end_lr}) must be above start_lr ({self.start_lr})")
        return self


class RuntimeConfig(Section):
    """How the machine is used."""

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where the network runs; auto takes the first of cuda, mps and cpu that is there."""

    amp: bool = True
    """Run the network in mixed precision."""

    precision: Literal["auto", "fp16", "bf16"] = "auto"
    """The lower precision of --amp; auto: fp16 on CUDA, bf16 on CPUs that have it, else none."""

    compile: bool = False
    """Compile the network with torch.compile."""

    sync_bn: bool = False
    """Let batch norms see the images of all GPUs, and not each its own."""

    dist_timeout: Annotated[int, Ge(1)] = 600
    """Seconds to wait for an answer of another process before the run ends."""

    deterministic: bool = False
    """Take only kernels that give the same bits each time; a CPU's do so anyway, a GPU's cost."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Seed of the weights, the order of the images and their augmentation."""
