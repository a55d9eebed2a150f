import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch_lr_finder.lr_finder as library
from torch import nn
from torch.optim import SGD

from imgnet_mini.config.training_settings import ResolvedFinder
from imgnet_mini.lr_finder.range_test import run_range_test
from imgnet_mini.training.precision import Precision

CPU = torch.device("cpu")


class Parts:
    """A small network with batch statistics, and endless batches that it can learn."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(8, 16, 3, 8, 8, generator=generator)
        targets = (images.mean(dim=(3, 4)) @ torch.randn(3, 4, generator=generator)).argmax(-1)
        self.data = list(zip(images, targets, strict=True))
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
        ).to(memory_format=torch.channels_last)
        self.optimizer = SGD(self.model.parameters(), lr=5.0, momentum=0.9, fused=True)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def run(self, *, autocast=None, scaler=None, on_step=None, criterion=None, **settings):
        return run_range_test(
            self.model,
            self.optimizer,
            criterion or self.criterion,
            itertools.cycle(self.data),
            ResolvedFinder(**{"start_lr": 1e-4, "end_lr": 1e-1, "num_iter": 24} | settings),
            device=CPU,
            autocast=autocast,
            scaler=scaler or torch.amp.GradScaler("cpu", enabled=False),
            on_step=on_step,
        )


@pytest.fixture
def parts():
    return Parts()


def test_each_rate_is_higher_than_the_last_by_the_same_factor(parts):
    curve = parts.run(start_lr=1e-6, end_lr=1e-2, num_iter=33)
    np.testing.assert_allclose(curve.lrs, np.geomspace(1e-6, 1e-2, 33), rtol=1e-12)
    assert curve.stopped == "end"
    assert curve.smoothed.shape == curve.losses.shape == (33,)


def test_the_losses_are_those_of_a_plain_training_loop(parts):
    expected = []
    model = copy.deepcopy(parts.model).train()
    optimizer = SGD(model.parameters(), lr=1.0, momentum=0.9)
    batches = itertools.cycle(parts.data)
    for lr in np.geomspace(1e-4, 1e-1, 24):
        optimizer.param_groups[0]["lr"] = float(lr)
        images, targets = next(batches)
        optimizer.zero_grad()
        loss = parts.criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(parts.run().losses, expected, rtol=1e-5)


def test_nothing_of_the_test_is_left_in_model_and_optimizer(parts):
    parts.model.eval()
    model = copy.deepcopy(parts.model.state_dict())
    optimizer = copy.deepcopy(parts.optimizer.state_dict())
    parts.run(num_iter=3)
    assert_unchanged(parts, model, optimizer)


def test_nor_after_an_exception(parts):
    parts.model.eval()
    model = copy.deepcopy(parts.model.state_dict())
    optimizer = copy.deepcopy(parts.optimizer.state_dict())

    def interrupt(steps, loss):
        if steps == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.run(on_step=interrupt)
    assert_unchanged(parts, model, optimizer)


def assert_unchanged(parts, model, optimizer):
    for name, tensor in parts.model.state_dict().items():
        torch.testing.assert_close(tensor, model[name], rtol=0, atol=0)
    assert parts.optimizer.state_dict() == optimizer
    assert not parts.model.training
    assert all(parameter.grad is None for parameter in parts.model.parameters())
    assert library.tqdm is not iter
    assert "print" not in vars(library)


def test_two_tests_in_a_row_agree(parts):
    np.testing.assert_array_equal(parts.run().losses, parts.run().losses)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_it_stops_at_the_first_loss_that_is_no_number(parts, value):
    parts.data[6][0][0] = value
    curve = parts.run()
    assert curve.stopped == "nan"
    assert curve.finite_steps == 6
    assert curve.lrs.size == curve.losses.size == curve.smoothed.size == 7
    assert np.isfinite(curve.losses[:6]).all()
    assert not np.isfinite(curve.losses[6])


def test_it_also_sees_what_the_last_step_did(parts):
    class LastIsNan(nn.Module):
        calls = 0

        def forward(self, logits, targets):
            self.calls += 1
            return parts.criterion(logits, targets) * (math.nan if self.calls == 3 else 1)

    curve = parts.run(num_iter=3, criterion=LastIsNan())
    assert curve.stopped == "nan"
    assert curve.finite_steps == 2


def test_it_stops_where_the_loss_diverges(parts):
    curve = parts.run(start_lr=1e-4, end_lr=1e4, num_iter=60)
    assert curve.stopped == "diverged"
    assert curve.lrs.size < 60
    assert np.mean(curve.losses[-5:]) > 4 * min(
        np.mean(curve.losses[max(0, end - 5) : end]) for end in range(1, curve.lrs.size)
    )


def test_one_odd_batch_does_not_end_it(parts):
    class OneOutlier(nn.Module):
        calls = 0

        def forward(self, logits, targets):
            self.calls += 1
            return parts.criterion(logits, targets) * (8 if self.calls == 10 else 1)

    assert parts.run(end_lr=1e-3, criterion=OneOutlier()).stopped == "end"


def test_a_late_divergence_ends_it_after_a_few_steps(parts):
    class HighFrom20(nn.Module):
        calls = 0

        def forward(self, logits, targets):
            self.calls += 1
            return parts.criterion(logits, targets) * (8 if self.calls >= 20 else 1)

    curve = parts.run(start_lr=1e-9, end_lr=1e-8, num_iter=40, criterion=HighFrom20())
    assert curve.stopped == "diverged"
    assert 20 < curve.lrs.size <= 24


def test_each_step_is_reported_with_its_loss(parts):
    seen = []
    curve = parts.run(num_iter=6, on_step=lambda *step: seen.append(step))
    assert [steps for steps, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss in seen] == curve.losses.tolist()


def test_nothing_is_printed_but_what_the_caller_prints(parts, capfd):
    parts.run(num_iter=4, on_step=lambda steps, _: print(steps))  # noqa: T201
    out, err = capfd.readouterr()
    assert out == "1\n2\n3\n4\n"
    assert err == ""


def test_the_network_runs_in_the_precision_asked_for(parts):
    seen = set()
    parts.model[0].register_forward_hook(lambda *args: seen.add(args[2].dtype))
    curve = parts.run(autocast={"device_type": "cpu", "dtype": torch.bfloat16})
    assert seen == {torch.bfloat16}
    np.testing.assert_allclose(curve.losses, parts.run().losses, rtol=0.1)
    assert seen == {torch.bfloat16, torch.float32}


def test_gradients_are_scaled_for_fp16_and_the_scaler_is_restored(parts):
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    plain = parts.run(num_iter=8)
    scaled = parts.run(
        num_iter=8, autocast={"device_type": "cpu", "dtype": torch.float16}, scaler=scaler
    )
    np.testing.assert_allclose(scaled.losses, plain.losses, rtol=0.02)
    assert scaler.get_scale() == 64.0


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_gradients_are_clipped_as_in_training(parts, dtype):
    """So hard that the loss does not move, where else it would."""
    precision = Precision("cpu", dtype)
    autocast = {"device_type": "cpu", "dtype": dtype, "enabled": dtype is not None}
    free = parts.run(num_iter=8, autocast=autocast, scaler=precision.build_scaler())
    curve = parts.run(num_iter=8, autocast=autocast, scaler=precision.build_scaler(1e-9))
    still = parts.run(num_iter=8, start_lr=1e-12, end_lr=2e-12, autocast=autocast)
    np.testing.assert_allclose(curve.losses, still.losses, rtol=1e-5)
    assert np.abs(np.subtract(free.losses, curve.losses)).max() > 1e-3


def test_batches_come_in_order_and_no_more_than_there_are_steps(parts):
    taken = 0

    def count():
        nonlocal taken
        for batch in itertools.cycle(parts.data):
            taken += 1
            yield batch

    run_range_test(
        parts.model,
        parts.optimizer,
        parts.criterion,
        count(),
        ResolvedFinder(start_lr=1e-7, end_lr=1.0, num_iter=5),
        device=CPU,
        autocast=None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    assert taken == 5
