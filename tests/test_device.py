import pytest
import torch

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.device import choose_device, describe_device

HAS = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def test_the_processor_can_always_be_asked_for():
    assert choose_device(RuntimeConfig(device="cpu")) == torch.device("cpu")


def test_auto_takes_the_first_device_that_is_there():
    expected = next((kind for kind, present in HAS.items() if present), "cpu")
    assert choose_device(RuntimeConfig()).type == expected


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(kind):
    if HAS[kind]:
        pytest.skip(f"{kind} is there")
    with pytest.raises(ConfigError, match=rf"--device {kind}: .*it can use .*cpu.*--device"):
        choose_device(RuntimeConfig(device=kind))


def test_the_processor_is_described_with_its_threads():
    text = describe_device(torch.device("cpu"))
    assert text.startswith("CPU (")
    assert f"{torch.get_num_threads()} threads" in text


@pytest.mark.gpu
@pytest.mark.skipif(not HAS["cuda"], reason="no CUDA GPU")
def test_a_gpu_is_described_by_its_name_and_memory():
    device = choose_device(RuntimeConfig(device="cuda"))
    assert torch.cuda.get_device_name(device) in describe_device(device)
    assert "GB)" in describe_device(device)
