import sys

import pytest
import torch
from torchvision.models import ShuffleNetV2

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.errors import ConfigError, MemoryLimitError
from imgnet_mini.training.device import (
    choose_device,
    describe_device,
    exact_float32,
    is_out_of_memory,
    translate_torch_errors,
)

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


@pytest.mark.parametrize(
    ("cuda", "words"),
    [(None, "was built without CUDA: install"), ("13.2", "no GPU for CUDA 13.2: update the dri")],
)
def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch, tmp_path, capsys, cuda, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def told(device="auto"):
        choose_device(RuntimeConfig(device=device))
        return " ".join(capsys.readouterr().err.split())

    monkeypatch.setenv("PATH", str(tmp_path))
    assert told() == ""
    program = tmp_path / ("nvidia-smi.exe" if sys.platform == "win32" else "nvidia-smi")
    program.touch(mode=0o755)
    assert words in told()
    assert told("cpu") == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert told() == ""


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory (MPS allocated: 8.00 GB)",
        "Triton Error [CUDA]: out of memory",
    ],
)
def test_memory_that_a_library_runs_out_of_is_told_like_any_other(text):
    assert is_out_of_memory(RuntimeError(text))
    with (
        pytest.raises(
            MemoryLimitError, match="out of memory at --batch-size 8: try --batch-size 4"
        ),
        translate_torch_errors(8),
    ):
        raise RuntimeError(text)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: unspecified launch failure"), MemoryError("out of memory")]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), translate_torch_errors(8):
        raise error


def float32_settings():
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.benchmark, torch.get_float32_matmul_precision()


EXACT = (False, False, "highest")


@pytest.fixture
def fast_kernels():
    """Settings of a GPU that trains without AMP."""
    before = float32_settings()
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, precision = before
    torch.set_float32_matmul_precision(precision)


def test_exact_float32_is_without_tf32_and_benchmarks_and_restores_both(fast_kernels):
    def fail():
        with exact_float32():
            assert float32_settings() == EXACT
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert float32_settings() == (True, True, "high")


@pytest.mark.parametrize(
    ("amp", "expected"), [(True, (False, True, "highest")), (False, (True, True, "high"))]
)
def test_only_training_without_amp_uses_tf32(fast_kernels, monkeypatch, amp, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(RuntimeConfig(amp=amp)).type == "cuda"
    assert float32_settings() == expected


def test_evaluate_and_predict_compute_in_exact_float32(fast_kernels, run_small, cli, monkeypatch):
    assert run_small("train", "--name", "a", "--epochs", 1, "--no-amp") == 0, cli.err
    found = []
    forward = ShuffleNetV2.forward

    def noted(self, images):
        found.append((self.training, float32_settings()))
        return forward(self, images)

    monkeypatch.setattr(ShuffleNetV2, "forward", noted)
    for command in (["evaluate"], ["predict", "data/val"]):
        found.clear()
        assert cli(*command, "--name", "a") == 0, cli.err
        assert {settings for _, settings in found} == {EXACT}
    found.clear()
    assert run_small("train", "--name", "b", "--epochs", 1, "--no-amp") == 0, cli.err
    assert {(True, (True, True, "high")), (False, EXACT)} <= set(found)


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
