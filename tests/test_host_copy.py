import copy

import torch
from torch import nn

from helpers.fake_cuda import fake_cuda
from imgnet_mini.checkpoint.host_copy import HostCopier
from imgnet_mini.training.ema import ModelEma


def state_of(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    return {
        "model": model.state_dict(),
        "ema": ModelEma(model, 0.9).model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {"step": 3},
        "rng_of_others": [{"cpu": torch.get_rng_state()}],
    }


def tensors_in(value):
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [tensor for item in items for tensor in tensors_in(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def test_a_copy_stays_as_it_was_while_training_changes_the_original():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    state = state_of(model)
    expected = copy.deepcopy(state)
    copied = HostCopier().copy(state)
    copied.wait()
    for tensor in tensors_in(state):
        tensor.zero_()
    state["optimizer"]["param_groups"][0]["lr"] = 0.0
    state["state"]["step"] = 4
    torch.testing.assert_close(copied.state, expected, rtol=0, atol=0)
    assert copied.state["model"]._metadata == expected["model"]._metadata
    weight = copied.state["model"]["0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_next_copy_uses_the_same_memory_where_the_tensors_have_the_same_shape():
    copier = HostCopier()
    state = {"a": torch.ones(3), "b": [{"c": torch.zeros(2), "d": 1}]}
    first = copier.copy(state).state
    state["a"] += 1
    state["b"][0] = {"c": torch.ones(5), "d": 2}
    second = copier.copy(state).state
    torch.testing.assert_close(second, state, rtol=0, atol=0)
    assert second["a"].data_ptr() == first["a"].data_ptr() != state["a"].data_ptr()
    assert second["b"][0]["c"].data_ptr() != first["b"][0]["c"].data_ptr()


def test_the_copy_of_a_gpus_state_is_on_the_cpu_and_the_host_waits_only_before_it_is_written():
    with fake_cuda() as cuda:
        weights = {"weight": torch.ones(3, device="cuda"), "bias": torch.ones(2, device="cuda")}
        momenta = {0: {"momentum_buffer": torch.ones(3, device="cuda")}}
        rng = {"cpu": torch.ones(4)}
        state = {"model": weights, "optimizer": {"state": momenta}, "rng_of_others": [rng]}
        copied = HostCopier().copy(state)
        assert all(tensor.is_cpu for tensor in tensors_in(copied.state))
        assert cuda.events == [("pin",), ("copy", "compute")] * 3 + [("record", "compute")]
        assert cuda.waits == []
        copied.wait()
        assert cuda.waits == ["event"]
