import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from imgnet_mini.training.batch_counts import BatchCounts


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=None)),
        *(nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.BatchNorm1d(144)),
    )


class Counters(TorchDispatchMode):
    """Lists the operations that change whole numbers."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = args[0][0] if args and isinstance(args[0], list) else args[0] if args else None
        if func._schema.is_mutable and getattr(first, "dtype", None) is torch.int64:
            self.found.append(func.overloadpacket)
        return func(*args, **(kwargs or {}))


def test_the_counts_of_all_layers_are_those_of_torch_in_one_operation():
    ours, theirs = network(), network()
    counts, images = BatchCounts(ours), torch.randn(2, 3, 8, 8)
    for _ in range(3):
        theirs(images)
        with Counters() as operations, counts:
            ours(images)
        # The layer without momentum divides by its count.
        assert operations.found == [torch.ops.aten.add_, torch.ops.aten._foreach_add_]
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert [*ours.state_dict()] == [*theirs.state_dict()]


def test_a_forward_pass_that_fails_counts_nothing_and_leaves_the_layers_whole():
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="size"), BatchCounts(model):
        model(torch.randn(2, 5, 8, 8))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_layers_without_a_count_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with BatchCounts(model):
        model(torch.ones(2, 3))


@torch._dynamo.config.patch(error_on_recompile=True)
def test_a_compiled_network_is_compiled_once():
    ours, theirs = network(), network()
    counts = BatchCounts(ours)
    ours.compile(backend="eager")
    for images in torch.randn(3, 2, 3, 8, 8):
        theirs(images)
        with counts:
            ours(images)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch._dynamo.reset()
