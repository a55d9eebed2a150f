import copy

import pytest
import torch
from torch import nn

from imgnet_mini.training.ema import ModelEma, ema_decay_at, load_ema


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).to(
        memory_format=torch.channels_last
    )


def change(model, generator):
    """As a step of training does: weights, running statistics, and the count of batches."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    model.train()
    model(torch.randn(5, 3, 4, 4, generator=generator))


def test_weights_and_statistics_are_the_moving_averages_worked_by_hand():
    model, generator = network(), torch.Generator().manual_seed(1)
    average = ModelEma(model, 0.5)
    expected = {name: tensor.double().numpy().copy() for name, tensor in model.state_dict().items()}
    for step in range(12):
        change(model, generator)
        average.update(step)
        decay = [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17][step : step + 1]
        (decay,) = decay or [0.5]  # 9/18 is 0.5
        for name, tensor in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double().numpy()
    for name, tensor in average.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert tensor == 12
        else:
            torch.testing.assert_close(
                tensor.double().numpy(), expected[name], rtol=1e-5, atol=1e-6
            )
            assert not torch.equal(tensor, model.state_dict()[name])


def test_the_start_counts_for_less_than_the_decay_would_leave_of_it():
    left = 1.0
    for step in range(100):
        left *= ema_decay_at(step, 0.999)
    assert left < 1e-9
    assert 0.999**100 > 0.9
    assert ema_decay_at(0, 0.999) == 0.1
    assert ema_decay_at(10**6, 0.999) == 0.999


def test_the_average_is_as_the_network_was_and_has_nothing_in_common_with_it():
    model = network()
    before = torch.get_rng_state()
    average = ModelEma(model, 0.9)
    assert torch.equal(torch.get_rng_state(), before)
    assert not average.model.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    kept = copy.deepcopy(average.model.state_dict())
    assert kept["0.weight"].is_contiguous(memory_format=torch.channels_last)
    change(model, torch.Generator().manual_seed(1))
    for name, tensor in average.model.state_dict().items():
        assert torch.equal(tensor, kept[name])


def test_a_network_without_buffers_is_averaged_too():
    model = nn.Linear(2, 2)
    average = ModelEma(model, 0.9)
    start = average.model.weight.clone()
    with torch.no_grad():
        model.weight.add_(1)
    average.update(0)
    torch.testing.assert_close(average.model.weight, start + 0.9)


def test_an_average_goes_on_from_what_it_was_and_from_nothing_else():
    model = network()
    average, fresh = ModelEma(model, 0.9), ModelEma(model, 0.9)
    change(model, torch.Generator().manual_seed(1))
    average.update(3)
    load_ema(fresh, average.model.state_dict())
    assert torch.equal(fresh.model[0].weight, average.model[0].weight)
    load_ema(None, None)
    with pytest.raises(ValueError, match=r"ema: it has none, and by the settings .* some"):
        load_ema(average, None)
    with pytest.raises(ValueError, match=r"ema: it has some, and by the settings .* none"):
        load_ema(None, average.model.state_dict())
    with pytest.raises(RuntimeError, match="state_dict"):
        load_ema(average, nn.Linear(1, 1).state_dict())
