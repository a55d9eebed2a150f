"""The settings, each declared once: type, bounds, default and help text.

The command line, the TOML file and the builders all read these classes. A section is one
table of the file, one panel of `--help`, and one argument of a builder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from imgnet_mini.config.fields import (
    Count,
    Formerly,
    MaxLr,
    Progressive,
    RunName,
    TrainingOnly,
    UsedBy,
    default_eval_size,
    default_workers,
)
from imgnet_mini.runs.paths import RunPaths


class Section(BaseModel):
    """Frozen settings; an unknown setting is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def in_use(self) -> dict[str, Any]:
        """Return the settings that have an effect beside the others, by name."""
        return self.model_dump()


class RunSection(Section):
    """Images, run name and output folder."""

    data_root: Path = Path("data/imagenet-mini")
    """Folder with train/ and val/, each with one subfolder per class."""

    pack_dir: Path | None = None
    """Folder of the pack made by `prepare`; unset: pack/ in the data root."""

    name: RunName = "r50_onecycle_amp"
    """Name of the run and of its folders."""

    output_dir: Path = Path()
    """Parent folder of checkpoints/, out/, runs/ and reports/."""

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
        """Folder of the pack of these images, which need not exist."""
        return self.pack_dir if self.pack_dir is not None else self.data_root / "pack"


class DataConfig(Section):
    """Data loading and augmentation."""

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


class ModelConfig(Section):
    """The network."""

    arch: str = "resnet50"
    """Name of a torchvision classification model."""

    zero_init_residual: Annotated[bool, Formerly("zero_init")] = False
    """Initialize the last batch norm of each residual block to zero (ResNets only)."""


class OptimizerConfig(Section):
    """Loss, optimizer and weight averaging."""

    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """SGD, AdamW, or Muon on the weight matrices of hidden layers with AdamW on the rest."""

    momentum: Annotated[float, Ge(0), Lt(1), UsedBy(("sgd",))] = 0.9
    """Momentum of SGD."""

    nesterov: Annotated[bool, UsedBy(("sgd",))] = False
    """Use Nesterov momentum in SGD."""

    adam_beta1: Annotated[float, Ge(0), Lt(1), UsedBy(("adamw", "muon"))] = 0.9
    """AdamW: decay rate of the average gradient."""

    adam_beta2: Annotated[float, Ge(0), Lt(1), UsedBy(("adamw", "muon"))] = 0.999
    """AdamW: decay rate of the average squared gradient."""

    adam_eps: Annotated[float, Gt(0), UsedBy(("adamw", "muon"))] = 1e-8
    """AdamW: term added to the denominator."""

    muon_momentum: Annotated[float, Ge(0), Lt(1), UsedBy(("muon",))] = 0.95
    """Momentum of Muon."""

    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """Weight decay; in SGD an L2 penalty, in AdamW and Muon decoupled (0.01 to 0.1 is common)."""

    norm_decay: bool = True
    """Apply weight decay to normalization layers and biases too."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Label smoothing of the cross-entropy loss."""

    clip_grad: Annotated[float | None, Gt(0), Formerly("clip_norm")] = None
    """Clip gradients to this global norm; unset: no clipping."""

    ema_decay: Annotated[float, Ge(0), Lt(1), Formerly("ema")] = 0.0
    """Decay of an exponential moving average of the weights, used for validation; 0: off."""

    def in_use(self) -> dict[str, Any]:
        """Return the settings that this optimizer has, by name."""
        return self.model_dump(exclude={name for name, _ in self._foreign()})

    def _foreign(self) -> Iterator[tuple[str, UsedBy]]:
        """Yield the settings that only other optimizers have."""
        for name, field in type(self).model_fields.items():
            for data in field.metadata:
                if isinstance(data, UsedBy) and self.optimizer not in data.optimizers:
                    yield name, data

    @model_validator(mode="after")
    def _check_optimizer(self) -> Self:
        for name, used_by in self._foreign():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                flag = name.replace("_", "-")
                cure = f"use --no-{flag}" if value is True else f"leave --{flag} out"
                owners = " or ".join(used_by.optimizers)
                raise ValueError(
                    f"--{flag} is a setting of --optimizer {owners}, and this run uses "
                    f"{self.optimizer}: {cure}, or choose --optimizer {owners}"
                )
        if self.nesterov and not self.momentum:
            raise ValueError(
                "--nesterov requires a --momentum above 0, such as 0.9, and it is 0: raise it, or "
                "leave --nesterov out"
            )
        return self


class ScheduleConfig(Section):
    """Length of the training and one-cycle learning rate schedule."""

    epochs: Count = 20
    """Number of passes over the training images."""

    max_lr: MaxLr = None
    """Peak learning rate; auto: the latest from find-lr; unset: 0.1 x batch size / 256 for SGD, and
    0.001 x sqrt(batch size / 256) for AdamW and Muon."""

    pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Fraction of the training steps in which the learning rate rises."""

    div_factor: Annotated[float, Ge(1)] = 25.0
    """Initial learning rate: the peak divided by this."""

    final_div_factor: Annotated[float, Ge(1)] = 1e4
    """Final learning rate: the initial one divided by this."""


class ResolvedSchedule(ScheduleConfig):
    """The schedule with its peak learning rate as a number."""

    max_lr: Annotated[float, Gt(0)]
    """Peak learning rate."""


class CheckpointConfig(Section):
    """Frequency and number of checkpoints."""

    keep: Annotated[int, Ge(0)] = 2
    """Number of latest checkpoints to keep besides the best; 1: no fallback, 0: all."""

    save_minutes: Annotated[float, Gt(0)] = 10.0
    """Minutes between checkpoints within an epoch."""


class FinderConfig(Section):
    """Learning rate range test, and short trial trainings after it."""

    start_lr: Annotated[float, Gt(0)] = 1e-7
    """Learning rate of the first step."""

    end_lr: Annotated[float, Gt(0)] = 1.0
    """Learning rate of the last step."""

    num_iter: Annotated[int, Ge(2)] = 100
    """Steps of the range test; the learning rate rises exponentially."""

    trials: Annotated[int, Ge(0)] = 6
    """Maximum number of short trainings that compare peak learning rates; 0: range test only."""

    trial_steps: Annotated[int, Ge(20)] = 100
    """Steps of each trial, a whole one-cycle schedule."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.end_lr <= self.start_lr:
            raise ValueError(f"end_lr ({self.end_lr}) must be above start_lr ({self.start_lr})")
        return self


class RuntimeConfig(Section):
    """Device, precision and reproducibility."""

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Device to run on; auto: the first available of cuda, mps and cpu."""

    amp: bool = True
    """Use automatic mixed precision."""

    precision: Literal["auto", "fp16", "bf16"] = "auto"
    """Dtype of mixed precision; auto: fp16 on CUDA, bf16 on CPUs that support it, else none."""

    compile: bool = False
    """Compile the model with torch.compile."""

    sync_bn: bool = False
    """Use SyncBatchNorm across GPUs."""

    dist_timeout: Annotated[int, Ge(1)] = 600
    """Timeout in seconds for communication between processes."""

    deterministic: bool = False
    """Use deterministic kernels for bit-identical runs (slower on a GPU)."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Seed of weight initialization, data order and augmentation."""
