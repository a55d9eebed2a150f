"""Small checkpoints as a run writes them, and what may befall them."""

import os
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imgnet_mini.checkpoint.schema import BestCheckpoint, RunCheckpoint
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler, fast_forward
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.trainer import Trainer

KINDS = ("flip", "truncate", "zero", "append", "empty")


def content_at(
    step: int, *, size: int = 8, best_epoch: int = -1, ema: float = 0.0
) -> dict[str, object]:
    """The content of checkpoint.pth after so many of 100 steps of one layer, 10 to an epoch."""
    torch.manual_seed(step)
    config = RunConfig()
    model = nn.Linear(size, 3)
    optimizer = build_optimizer(config.optimizer, model, lr=0.1)
    scheduler = build_scheduler(config.schedule, optimizer, max_lr=0.1, total_steps=100)
    model(torch.ones(1, size)).sum().backward()
    optimizer.step()
    trainer = Trainer(
        *(model, build_loss(config.optimizer), optimizer, scheduler, Precision("cpu", None)),
        total_steps=100,
        ema_decay=ema,
    )
    trainer.state.step, trainer.state.epoch, trainer.state.batch = step, step // 10, step % 10
    trainer.state.best_epoch = best_epoch
    if best_epoch >= 0:
        trainer.state.best_top1 = 50.0
    fast_forward(scheduler, min(step, 99))
    return trainer.state_dict() | {
        "config": config.model_dump(mode="json"),
        "classes": ["a", "b", "c"],
        "images": "0" * 64,
        "skipped": {},
        "pack": None,
        "environment": {"threads": 1, "world_size": 1},
        "records": [
            asdict(EpochRecord(epoch, phase, 1.0, 50.0, 100.0, 0.1, 100.0))
            for epoch in range(step // 10)
            for phase in (("train", "val", "ema") if ema else ("train", "val"))
        ],
    }


def checkpoint_at(step: int, **options: Any) -> RunCheckpoint:
    """The same, as it is saved."""
    return RunCheckpoint.model_validate(content_at(step, **options))


def best_at(step: int) -> BestCheckpoint:
    """The weights of the epoch that ends with a step."""
    epoch = {"epoch": step // 10, "metrics": {}}
    return BestCheckpoint.model_validate(content_at(step) | epoch)


def store_at(folder: Path, *steps: int, keep: int = 2) -> CheckpointStore:
    """A store that has saved these states."""
    store = CheckpointStore(RunPaths(folder, "a"), keep=keep)
    for step in steps:
        store.save(checkpoint_at(step))
        os.utime(RunPaths(folder, "a").checkpoint, ns=(step, step))  # all within one clock tick
    return store


def damage(path: Path, kind: str, generator: random.Random) -> None:
    """Change a file as a bad disk, a cut copy or a tidy person does."""
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    elif kind == "truncate":
        del data[generator.randrange(len(data)) :]
    elif kind == "zero":
        page = 4096 * generator.randrange(len(data) // 4096 + 1)
        zeroed = bytes(min(4096, len(data) - page))
        if data[page : page + 4096] == zeroed:
            data[page] = 1  # a page that was empty is filled instead
        else:
            data[page : page + 4096] = zeroed
    elif kind == "append":
        data += generator.randbytes(generator.randrange(1, 4096))
    else:
        data.clear()
    path.write_bytes(data)
