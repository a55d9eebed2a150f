"""What only a CUDA GPU can show; run by `nox -s gpu`."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.packs import DATA, build, opened
from imgnet_mini.checkpoint.host_copy import HostCopier
from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.config.training_settings import ModelConfig, OptimizerConfig, ScheduleConfig
from imgnet_mini.data.augment.erasing import RandomAffineErase, RandomErasing
from imgnet_mini.data.augment.mixing import MixupCutmix
from imgnet_mini.data.augment.trivial import TrivialAugment
from imgnet_mini.data.batches import Batch, BatchRandom, DevicePrefetcher
from imgnet_mini.data.crops import CROP_NUMBERS, crop_batch, sample_crop
from imgnet_mini.data.loaders import Loader, build_train_loader
from imgnet_mini.data.pack.source import DeviceRows
from imgnet_mini.data.rng import CROP_STREAM, uniforms
from imgnet_mini.data.sampler import BatchKey
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.transforms import STD, Normalize
from imgnet_mini.data.tree import find_splits
from imgnet_mini.distributed.context import SINGLE_PROCESS
from imgnet_mini.errors import ConfigError
from imgnet_mini.runs.records import read_csv
from imgnet_mini.training.device import choose_device, exact_float32
from imgnet_mini.training.model import build_model
from imgnet_mini.training.optim import build_loss, build_optimizer, build_scheduler
from imgnet_mini.training.precision import choose_precision
from imgnet_mini.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def build_trainer(
    precision: str,
    *,
    compile_mode: str | None = None,
    optimizer: OptimizerConfig | None = None,
) -> Trainer:
    runtime = RuntimeConfig(precision=precision)
    device = choose_device(runtime)
    model = build_model(ModelConfig(), classes=10, img_size=64, seed=0, device=device)
    settings = optimizer or OptimizerConfig()
    sgd = build_optimizer(settings, model, lr=0.05)
    scheduler = build_scheduler(ScheduleConfig(), sgd, max_lr=0.05, total_steps=50)
    chosen = choose_precision(runtime, device)
    return Trainer(
        *(model, build_loss(settings), sgd, scheduler, chosen),
        total_steps=50,
        compile_mode=compile_mode,
        clip_grad=settings.clip_grad,
        ema_decay=settings.ema_decay,
    )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (32, 3, 64, 64), generator=generator).to(torch.uint8)
    return Normalize(CUDA)(images.cuda()), torch.arange(32).cuda() % 10


@contextmanager
def never_waiting() -> Iterator[None]:
    """Any wait for the GPU is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_auto_is_bf16_where_the_gpu_has_it_and_else_fp16_with_gradient_scaling():
    device = choose_device(RuntimeConfig())
    precision = choose_precision(RuntimeConfig(), device)
    has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    assert (device.type, precision.name) == ("cuda", "bf16" if has_bf16 else "fp16")
    assert precision.build_scaler().is_enabled() is not has_bf16


ALL = OptimizerConfig(nesterov=True, norm_decay=False, clip_grad=0.5, ema_decay=0.99)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "optimizer",
    [OptimizerConfig(), ALL, OptimizerConfig(optimizer="adamw"), OptimizerConfig(optimizer="muon")],
    ids=["plain", "all", "adamw", "muon"],
)
def test_a_step_never_waits_for_the_gpu(precision, optimizer):
    trainer = build_trainer(precision, optimizer=optimizer)
    trainer.model.train()
    images, targets = batch()
    trainer.train_step([(images, targets)])
    with never_waiting():
        for _ in range(3):
            trainer.train_step([(images, targets)])


def squares(count: int = 40, side: int = 96) -> tuple[Tensor, Tensor]:
    """Rows of a pack, and where to crop them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    numbers = uniforms(0, 0, np.arange(count), CROP_NUMBERS).tolist()
    crops = [sample_crop(drawn, side, side, crop_scale_min=0.08, flip=True) for drawn in numbers]
    return torch.from_numpy(pixels), torch.tensor(crops, dtype=torch.float32)


def assert_within_one_grey_level(ours: Tensor, theirs: Tensor) -> None:
    """Of bytes, (N, 3, S, S)."""
    assert ours.dtype == theirs.dtype == torch.uint8
    assert int((ours.cpu().int() - theirs.cpu().int()).abs().max()) <= 1


@pytest.mark.parametrize("size", [32, 96, 224])
def test_a_batch_is_cropped_as_on_the_cpu_within_one_grey_level(size):
    images, crops = squares()
    ours = crop_batch(images.cuda(), crops.cuda(), size)
    assert_within_one_grey_level(ours, crop_batch(images, crops, size))


def test_class_style_is_that_of_the_cpu_within_one_grey_level():
    images = squares()[0].permute(0, 3, 1, 2)
    numbers = uniforms(0, 0, np.arange(len(images)), RandomAffineErase.NUMBERS)
    ours = RandomAffineErase(CUDA).transform(images.cuda(), numbers)
    assert_within_one_grey_level(ours, RandomAffineErase(CPU).transform(images, numbers))


def test_erasing_is_that_of_the_cpu():
    images = squares()[0].permute(0, 3, 1, 2)
    numbers = uniforms(0, 0, np.arange(len(images)), RandomErasing.NUMBERS)
    ours = RandomErasing(0.5, CUDA).erase(images.cuda(), numbers)
    assert torch.equal(ours.cpu(), RandomErasing(0.5, CPU).erase(images, numbers))


def test_trivial_augment_is_that_of_the_cpu_within_one_grey_level():
    images = torch.cat([squares()[0].permute(0, 3, 1, 2)] * 8)
    random = BatchRandom(CROP_STREAM, 0, BatchKey(0, np.arange(len(images)), 96))
    targets = torch.zeros(len(images), dtype=torch.int64)
    ours, _ = TrivialAugment()(images.cuda(), targets.cuda(), random)
    assert_within_one_grey_level(ours, TrivialAugment()(images, targets, random)[0])


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0)], ids=["mixup", "cutmix"])
def test_mixing_is_that_of_the_cpu(alphas):
    images = squares()[0].permute(0, 3, 1, 2).float()
    targets, mixing = torch.arange(len(images)) % 7, MixupCutmix(*alphas, classes=7)
    random = BatchRandom(CROP_STREAM, 0, BatchKey(0, np.arange(len(images)), 96))
    ours, theirs = mixing(images.cuda(), targets.cuda(), random), mixing(images, targets, random)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.cpu(), other, atol=1e-4)


def test_what_is_done_to_whole_batches_never_waits_for_the_gpu():
    images, crops = (tensor.cuda() for tensor in squares())
    targets = torch.arange(len(images), device=CUDA) % 7
    random = BatchRandom(CROP_STREAM, 0, BatchKey(0, np.arange(len(images)), 32))
    numbers = uniforms(0, 0, np.arange(len(images)), RandomErasing.NUMBERS)
    style, erase, normalize = RandomAffineErase(CUDA), RandomErasing(0.5, CUDA), Normalize(CUDA)
    mixings = [MixupCutmix(*alphas, classes=7) for alphas in ((1.0, 0.0), (0.0, 1.0))]

    def work():
        changed, _ = TrivialAugment()(crop_batch(images, crops, 32), targets, random)
        styled = style.transform(changed, numbers[:, : RandomAffineErase.NUMBERS])
        found = normalize(erase.erase(styled, numbers))
        for mixing in mixings:
            mixing(found, targets, random)

    work()
    with never_waiting():
        for _ in range(3):
            work()


def test_moving_a_pinned_batch_never_waits_for_the_gpu():
    images, crops = squares()
    key = BatchKey(0, np.arange(len(images)), 32)
    batch = Batch(images, torch.arange(len(images)), key, crops)
    batch = batch.map_tensors(lambda tensor: tensor.pin_memory())
    move = DevicePrefetcher(CUDA)
    with never_waiting():
        moved = [move(batch) for _ in range(3)]
    for one in moved:
        assert one.key is key
        for name in ("images", "targets", "crops"):
            before, after = getattr(batch, name), getattr(one, name)
            assert after.is_cuda
            assert torch.equal(after.cpu(), before)


@pytest.fixture
def pack(data) -> ImageSplits:
    build()
    return ImageSplits(*find_splits(DATA), opened())


def train_loader(images: ImageSplits, device: torch.device, **settings) -> closing[Loader]:
    data = DataConfig(batch_size=6, img_size=32, **{"workers": 2} | settings)
    return closing(build_train_loader(data, images, seed=3, device=device))


def batches(images: ImageSplits, device: torch.device, **settings) -> list[tuple[Tensor, Tensor]]:
    """Those of three epochs, brought back."""
    with train_loader(images, device, **settings) as loader:
        return [
            (pixels.cpu(), labels.cpu())
            for epoch in range(3)
            for pixels, labels in loader.epoch(epoch)
        ]


def assert_batches_agree(ours, theirs, *, grey_levels: float) -> None:
    per_level = 1 / torch.tensor(STD).view(3, 1, 1)
    for (pixels, labels), (other_pixels, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, other_labels)
        assert ((pixels - other_pixels).abs() <= grey_levels * per_level + 1e-5).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pack_gives_the_same_batches_from_either_memory_and_nearly_those_of_the_cpu(
    pack, workers
):
    on, off, auto = (
        batches(pack, CUDA, pack_on_device=where, workers=workers)
        for where in ("on", "off", "auto")
    )
    assert_batches_agree(on, off, grey_levels=0)
    assert_batches_agree(auto, off, grey_levels=0)
    assert_batches_agree(off, batches(pack, CPU), grey_levels=1)


def test_image_files_give_the_batches_of_the_cpu(data):
    images = ImageSplits(*find_splits(data))
    assert_batches_agree(batches(images, CUDA), batches(images, CPU), grey_levels=0)
    ours, theirs = (batches(images, where, use_class_style_aug=True) for where in (CUDA, CPU))
    assert_batches_agree(ours, theirs, grey_levels=1)


@pytest.mark.parametrize(
    ("wanted", "first", "second"),
    [("on", True, True), ("auto", False, True), ("off", False, False)],
)
def test_a_pack_is_on_the_gpu_at_once_or_after_an_epoch_or_never(pack, wanted, first, second):
    with train_loader(pack, CUDA, pack_on_device=wanted) as loader:
        for epoch, there in enumerate((first, second)):
            list(loader.epoch(epoch))
            rows = loader._source._device_rows.tensor
            assert (rows is not None and rows.is_cuda) == there


def test_a_pack_that_cannot_fit_is_refused_only_where_it_was_asked_for():
    rows = np.broadcast_to(np.zeros(1, np.uint8), 2**42)  # 4 TiB that take no memory
    with pytest.raises(ConfigError, match=r"--pack-on-device on: .* 4398\.0 GB.* auto or off"):
        DeviceRows(rows, CUDA, "on").before_epoch()
    resident = DeviceRows(rows, CUDA, "auto")
    resident.full_size_seen = True
    resident.before_epoch()
    assert resident.tensor is None


def test_a_pack_is_given_back_to_the_host_where_training_needs_its_memory(pack):
    with train_loader(pack, CUDA, pack_on_device="auto") as loader:
        expected = [images.cpu() for images, _ in loader.epoch(0)]
        list(loader.epoch(1))
        taken = torch.cuda.memory_allocated()
        assert loader.free_memory()
        assert torch.cuda.memory_allocated() < taken
        found = [images.cpu() for images, _ in loader.epoch(0)]
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("compile_mode", [None, "default", "reduce-overhead"])
def test_one_batch_is_learnt_by_heart(precision, compile_mode):
    trainer = build_trainer(precision, compile_mode=compile_mode)
    trainer.model.train()
    images, targets = batch()
    for _ in range(50):
        trainer.train_step([(images, targets)])
    losses, *_ = trainer._buffer.read(SINGLE_PROCESS)
    assert losses[-1] < 0.7 * losses[0]


def test_the_workflow_runs_and_resumes_on_the_gpu(data, cli):
    options = [
        *("--data-root", "data", "--arch", "resnet18", "--img-size", 32),
        *("--batch-size", 6, "--workers", 2, "--epochs", 2),
    ]
    assert cli("train", *options) == 0, cli.err
    assert choose_precision(RuntimeConfig(), CUDA).name in cli.out
    assert cli("resume") == 0
    assert cli("evaluate") == 0, cli.err
    best = torch.load("checkpoints/r50_onecycle_amp/best.pth", weights_only=True)
    assert all(tensor.is_cpu for tensor in best["model"].values())
    assert len(read_csv(Path("out/r50_onecycle_amp/train_log.csv"))) == 4


def test_the_copy_of_a_state_for_a_checkpoint_never_waits_and_is_that_of_its_moment():
    trainer = build_trainer("bf16", optimizer=ALL)
    trainer.model.train()
    trainer.train_step([batch()])
    state = trainer.state_dict()
    expected = copy.deepcopy(state)
    again = batch()
    copier = HostCopier()
    copier.copy(state).wait()  # allocates pinned memory
    with never_waiting():
        copied = copier.copy(state)
        trainer.train_step([again])
    copied.wait()
    for part in ("model", "ema"):
        for name, tensor in copied.state[part].items():
            assert tensor.is_cpu
            assert torch.equal(tensor, expected[part][name].cpu())


def test_deterministic_gives_the_same_bits_again(data):
    """Each run is a process of its own: cuBLAS reads its workspace setting at its first use."""
    options = [
        *("--data-root", "data", "--arch", "resnet18", "--img-size", "32", "--deterministic"),
        *("--batch-size", "6", "--workers", "2", "--epochs", "2"),
    ]
    weights = []
    for name in ("a", "b"):
        command = [sys.executable, "-m", "imgnet_mini", "train", "--name", name, *options]
        subprocess.run(command, check=True, timeout=300)
        weights.append(torch.load(f"checkpoints/{name}/checkpoint.pth", weights_only=True)["model"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_evaluation_of_a_float32_network_is_that_of_the_cpu_to_float32(data):
    choose_device(RuntimeConfig(amp=False))  # training may use TF32
    images = squares()[0].permute(0, 3, 1, 2)
    model = build_model(ModelConfig(arch="resnet18"), classes=10, img_size=96, seed=0, device=CPU)
    logits = []
    for device in (CPU, CUDA):
        with torch.no_grad(), exact_float32():
            logits.append(model.to(device).eval()(Normalize(device)(images.to(device))).cpu())
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


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
