import pytest
import torch
from torch import nn

from imgnet_mini.export.parity import compare


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()


@pytest.fixture
def images():
    return torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def test_a_model_matches_itself(model, images):
    parity = compare(model, model, images)
    assert parity.is_match
    assert (parity.images, parity.same_top1) == (5, 5)
    assert parity.max_difference <= 1e-6


def test_the_largest_difference_is_reported(model, images):
    parity = compare(model, lambda images: model(images) + 2e-4, images)
    assert parity.max_difference == pytest.approx(2e-4, rel=1e-2)
    assert parity.is_match


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits + 0.1,
        lambda logits: logits.flip(1),
        lambda logits: logits * torch.nan,
        lambda logits: logits + 0.1 * (len(logits) == 1),
    ],
    ids=["shifted", "other-classes", "not-finite", "wrong-alone"],
)
def test_another_model_does_not_match(model, images, change):
    assert not compare(model, lambda images: change(model(images)), images).is_match
