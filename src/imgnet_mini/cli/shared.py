"""What several commands have in common: an option, and groups of settings they leave out."""

from typing import Annotated

import typer

Checkpoint = Annotated[
    str, typer.Option(metavar="best|last|PATH", help="Which weights; also a plain state dict.")
]

TRAINING_ONLY = (
    *("crop_scale_min", "flip", "use_class_style_aug", "pack_on_device", "grad_accum_steps"),
    *("progressive", "trivial_augment", "random_erasing", "mixup", "cutmix"),
    *("amp", "precision", "compile", "sync_bn", "deterministic", "seed", "zero_init_residual"),
)
"""Settings of the data, model and runtime sections that evaluation has no use for."""

IMAGES = ("data_root", "pack_dir", "workers", "loader", "skip_bad", "allow_missing_val_classes")
"""Settings that say which images a run has, and how they are read."""
