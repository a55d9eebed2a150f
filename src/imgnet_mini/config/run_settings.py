"""Settings of the run: images, folders, checkpoints, device."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import field_validator

from imgnet_mini.config.fields import RunName, TrainingOnly
from imgnet_mini.config.section import Section
from imgnet_mini.runs.paths import RunPaths


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

    track: Annotated[Literal["none", "trackio", "wandb"], TrainingOnly()] = "none"
    """Experiment tracker to log to, besides TensorBoard."""

    @field_validator("data_root", "pack_dir", "output_dir")
    @classmethod
    def _check_text(cls, folder: Path | None) -> Path | None:
        """Refuse a name that neither a TOML file nor a TensorBoard log can hold."""
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            raise ValueError("its name is not valid UTF-8: rename or link the folder") from error
        return folder

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


class CheckpointConfig(Section):
    """Frequency and number of checkpoints."""

    keep: Annotated[int, Ge(0)] = 2
    """Number of latest checkpoints to keep besides the best; 1: no fallback, 0: all."""

    save_minutes: Annotated[float, Gt(0)] = 10.0
    """Minutes between checkpoints within an epoch."""


class RuntimeConfig(Section):
    """Device, precision and reproducibility."""

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Device to run on; auto: the first available of cuda, mps and cpu."""

    amp: bool = True
    """Use automatic mixed precision."""

    precision: Literal["auto", "fp16", "bf16"] = "auto"
    """Dtype of mixed precision; auto: bf16 on GPUs (Ampere or newer) and CPUs with AMX, fp16 on
    other CUDA GPUs, else none."""

    compile: bool = False
    """Compile the model with torch.compile, once for each image size."""

    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Mode of torch.compile; all but default use CUDA graphs, meant for small images, where kernel
    launches limit the speed (not measured yet)."""

    sync_bn: bool = False
    """Use SyncBatchNorm across GPUs."""

    dist_timeout: Annotated[int, Ge(1)] = 600
    """Timeout in seconds for communication between processes."""

    deterministic: bool = False
    """Use deterministic kernels for bit-identical runs (slower on a GPU)."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Seed of weight initialization, data order and augmentation."""
