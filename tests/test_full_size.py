"""The check that full-size images fit, before a progressive run."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import build_train_loader
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.distributed.context import SINGLE_PROCESS
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.full_size import check_full_size
from imgnet_mini.training.optim import build_loss
from imgnet_mini.training.precision import Precision
from imgnet_mini.training.setup import Setup


class Limited(nn.Sequential):
    """A network that runs out of memory above so many pixels; it counts its calls."""

    def __init__(self, pixels):
        super().__init__(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(4, 3)),
        )
        self.pixels, self.seen = pixels, []

    def forward(self, images):
        count, _, size, _ = images.shape
        self.seen.append((count, size))
        if count * size * size > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


def settings(**data):
    data = {"img_size": 128, "batch_size": 16, "progressive": "0.5:1"} | data
    return RunConfig().override({"data": data, "schedule": {"epochs": 16}})


def setup(config, pixels, *, device="cuda"):
    return Setup(
        torch.device(device),
        Precision("cpu", None),
        images=None,
        train_loader=None,
        model=Limited(pixels),
        criterion=build_loss(config.optimizer),
        distributed=SINGLE_PROCESS,
    )


def test_what_fits_leaves_no_trace():
    config = settings()
    ours = setup(config, 16 * 128**2)
    before = {name: value.clone() for name, value in ours.model.state_dict().items()}
    state = torch.get_rng_state()
    check_full_size(config, ours)
    assert ours.model.seen == [(16, 128)]
    assert all(torch.equal(value, before[name]) for name, value in ours.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in ours.model.parameters())


@pytest.mark.parametrize(
    ("data", "pixels", "cures"),
    [
        (
            {},
            8 * 128**2,
            "use --grad-accum-steps 2; or use --batch-size 8 (tried",
        ),
        (
            {"grad_accum_steps": 2},
            2 * 128**2,
            "use --grad-accum-steps 8; or use --batch-size 4 (tried",
        ),
        ({"progressive": "32:128"}, 16 * 96**2, "use --img-size 96 --progressive 32:96 (tried"),
        ({}, 0, "not even 2 images fit"),
    ],
)
def test_out_of_memory_names_what_fits(data, pixels, cures):
    config = settings(**data)
    ours = setup(config, pixels)
    with pytest.raises(ConfigError) as error:
        check_full_size(config, ours)
    message = str(error.value)
    assert f"--batch-size 16 and 128 px, which --progressive {config.data.progressive}" in message
    assert "reaches in epoch 12 of 16" in message
    assert cures in message
    assert all(parameter.grad is None for parameter in ours.model.parameters())


def test_a_run_with_cuda_graphs_is_told_to_leave_them_for_micro_batches():
    graphs = {"runtime": {"compile": True, "compile_mode": "reduce-overhead"}}
    config = settings().override(graphs)
    with pytest.raises(ConfigError, match="use --grad-accum-steps 2 --compile-mode default; or"):
        check_full_size(config, setup(config, 8 * 128**2))


def test_every_cure_is_accepted_and_fits(make_folder, tmp_path):
    images = ImageSplits(*find_splits(make_folder(tmp_path / "data", train=8)))
    cures = (
        {"grad_accum_steps": 2},
        {"batch_size": 8},
        {"img_size": 80, "progressive": "64:80"},
    )
    for cure in cures:
        config = settings(**cure)
        build_train_loader(
            config.data.model_copy(update={"workers": 0}),
            images,
            seed=0,
            device=torch.device("cpu"),
            epochs=16,
        ).close()
        check_full_size(config, setup(config, 8 * 128**2))


def test_several_ranks_get_advice_without_trying():
    config = settings()
    ours = replace(setup(config, 0), distributed=SimpleNamespace(world_size=2))
    with pytest.raises(ConfigError, match="try twice the --grad-accum-steps, or half the --batch"):
        check_full_size(config, ours)
    assert ours.model.seen == [(8, 128)]


@pytest.mark.parametrize(("progressive", "device"), [(None, "cuda"), ("0.5:1", "cpu")])
def test_nothing_is_run_where_images_do_not_grow_and_on_a_cpu(progressive, device):
    config = settings(progressive=progressive)
    ours = setup(config, 0, device=device)
    check_full_size(config, ours)
    assert ours.model.seen == []
