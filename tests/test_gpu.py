"""What only a CUDA GPU can show; run by `nox -s gpu`."""

from pathlib import Path

import pytest
import torch

from imgnet_mini.config import ModelConfig, OptimizerConfig, RuntimeConfig, ScheduleConfig
from imgnet_mini.data.loaders import Batch
from imgnet_mini.data.transforms import Normalise
from imgnet_mini.device import choose_device
from imgnet_mini.engine import Trainer
from imgnet_mini.model import build_model
from imgnet_mini.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.precision import choose_precision
from imgnet_mini.records import read_csv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def build_trainer(precision: str, *, compiled: bool = False) -> Trainer:
    runtime = RuntimeConfig(precision=precision)
    device = choose_device(runtime)
    model = build_model(ModelConfig(), classes=10, img_size=64, seed=0, device=device)
    settings = OptimizerConfig()
    optimizer = build_optimizer(settings, model, lr=0.05)
    scheduler = build_scheduler(ScheduleConfig(), optimizer, max_lr=0.05, total_steps=50)
    chosen = choose_precision(runtime, device)
    return Trainer(model, build_loss(settings), optimizer, scheduler, chosen, compiled=compiled)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (32, 3, 64, 64), generator=generator).to(torch.uint8)
    return Normalise(torch.device("cuda"))(images.cuda()), torch.arange(32).cuda() % 10


def test_auto_is_fp16_with_gradient_scaling():
    device = choose_device(RuntimeConfig())
    precision = choose_precision(RuntimeConfig(), device)
    assert (device.type, precision.name) == ("cuda", "fp16")
    assert precision.build_scaler().is_enabled()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_step_never_waits_for_the_gpu(precision):
    trainer = build_trainer(precision)
    trainer.model.train()
    images, targets = batch()
    trainer.train_step(images, targets)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step(images, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_normalising_never_waits_for_the_gpu():
    normalise = Normalise(torch.device("cuda"))
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        normalise(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_one_batch_is_learnt_by_heart(precision, compiled):
    trainer = build_trainer(precision, compiled=compiled)
    trainer.model.train()
    images, targets = batch()
    for _ in range(50):
        trainer.train_step(images, targets)
    losses = trainer._losses[:50].tolist()
    assert losses[-1] < 0.7 * losses[0]


def test_the_workflow_runs_and_resumes_on_the_gpu(data, cli):
    options = [
        *("--data-root", "data", "--arch", "resnet18", "--img-size", 32),
        *("--batch-size", 6, "--workers", 2, "--epochs", 2),
    ]
    assert cli("train", *options) == 0, cli.err
    assert "fp16" in cli.out
    assert cli("resume") == 0
    assert cli("evaluate") == 0, cli.err
    assert len(read_csv(Path("out/r50_onecycle_amp/train_log.csv"))) == 4


def test_a_batch_that_does_not_fit_names_a_smaller_one(data, cli):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(256 * 2**20 / total)
    try:
        code = cli("train", "--data-root", "data", "--batch-size", 24, "--workers", 0)
        assert code == 2
        assert cli.says("--batch-size 12")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
