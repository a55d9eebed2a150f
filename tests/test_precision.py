import copy
import warnings

import pytest
import torch
from torchvision.models import get_model

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.precision import (
    FiniteBuffers,
    Precision,
    _InFloat32,
    choose_precision,
    emulates_bf16,
    use_float32_classifier,
)
from imgnet_mini.utils.finite import all_finite

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


@pytest.mark.parametrize("device", [CPU, CUDA, MPS])
@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
def test_without_mixed_precision_all_is_float32(device, precision):
    chosen = choose_precision(RuntimeConfig(amp=False, precision=precision), device)
    assert (chosen.name, chosen.dtype, chosen.device_type) == ("fp32", None, device.type)


@pytest.mark.parametrize(
    ("precision", "device", "name"),
    [
        ("fp16", CUDA, "fp16"),
        ("bf16", CUDA, "bf16"),
        ("bf16", CPU, "bf16"),
        ("bf16", MPS, "bf16"),
        ("auto", MPS, "fp32"),
    ],
)
def test_the_precision_asked_for_or_the_best_of_the_device(precision, device, name):
    assert choose_precision(RuntimeConfig(precision=precision), device).name == name


@pytest.fixture
def processor(monkeypatch):
    """A processor with these instructions."""

    def has(*, avx512_bf16, amx):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    return has


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "name", "emulates"),
    [
        (True, True, "bf16", False),
        (False, True, "bf16", False),
        (True, False, "fp32", False),
        (False, False, "fp32", True),
    ],
)
def test_a_processor_takes_bf16_only_where_it_is_faster(
    processor, avx512_bf16, amx, name, emulates
):
    processor(avx512_bf16=avx512_bf16, amx=amx)
    assert choose_precision(RuntimeConfig(), CPU).name == name
    assert emulates_bf16(CPU) == emulates
    assert not emulates_bf16(CUDA)


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "previous", "name"),
    [
        (True, False, "bf16", "bf16"),
        (True, True, "fp32", "fp32"),
        (False, False, "bf16", "fp32"),
        (True, True, "fp16", "bf16"),
    ],
)
def test_a_resumed_run_keeps_its_precision_unless_the_processor_would_emulate_it(
    processor, avx512_bf16, amx, previous, name
):
    processor(avx512_bf16=avx512_bf16, amx=amx)
    assert choose_precision(RuntimeConfig(), CPU, previous=previous).name == name


def test_a_gpu_without_bf16_takes_fp16():
    has_it = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    assert choose_precision(RuntimeConfig(), CUDA).name == ("bf16" if has_it else "fp16")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_validation_has_the_precision_of_training_unless_that_can_overflow(dtype):
    assert Precision("cpu", dtype).for_validation.dtype is dtype
    assert Precision("cpu", torch.float16).for_validation == choose_precision(RuntimeConfig(), CPU)


@pytest.mark.parametrize("device", [CPU, MPS])
def test_fp16_without_cuda_is_refused_with_the_cure(device):
    with pytest.raises(ConfigError, match=rf"fp16 needs CUDA.*{device.type}.*bf16.*--no-amp"):
        choose_precision(RuntimeConfig(precision="fp16"), device)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_inside_the_context_products_have_the_lower_precision(dtype):
    precision = Precision("cpu", dtype)
    layer = torch.nn.Linear(4, 4)
    for _ in range(2):  # each call gives a fresh context
        with precision.autocast():
            assert layer(torch.ones(2, 4)).dtype == (dtype or torch.float32)
    assert layer(torch.ones(2, 4)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_only_fp16_has_its_gradients_scaled(dtype):
    assert not Precision("cpu", dtype).build_scaler().is_enabled()
    assert Precision("cpu", torch.float16).build_scaler().is_enabled()


FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t"),
    *("vgg11", "vit_b_32"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_layer_of_every_network_computes_in_float32(name):
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the initialization
        network = get_model(name, weights=None, num_classes=7, **options)
    names = [*network.state_dict()]
    use_float32_classifier(network, "cpu")
    (layer,) = [part for part in network.modules() if isinstance(part, _InFloat32)]
    assert len(layer.weight) == 7
    assert [*network.state_dict()] == names


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_logits_are_those_of_float32_weights_on_the_features_of_mixed_precision(name, dtype):
    torch.manual_seed(0)
    network = get_model(name, weights=None, num_classes=7).eval()
    plain = copy.deepcopy(network)
    use_float32_classifier(network, "cpu")
    layer = next(part for part in network.modules() if isinstance(part, _InFloat32))
    features = []
    layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), Precision("cpu", dtype).autocast():
        logits = network(images)
        assert copy.deepcopy(network)(images).dtype == torch.float32  # as for EMA
        assert plain(images).dtype == (dtype or torch.float32)
    assert features[0].dtype == (dtype or torch.float32)
    assert logits.dtype == torch.float32
    if name == "resnet18":
        expected = features[0].float() @ layer.weight.T + layer.bias
        torch.testing.assert_close(logits, expected)


def test_statistics_that_overflow_in_a_step_keep_their_values_of_before():
    norm = torch.nn.BatchNorm1d(3)
    statistics = FiniteBuffers(norm)
    statistics.remember()
    norm(torch.tensor([[1.0, torch.inf, 2.0], [3.0, 1.0, torch.nan]]))
    statistics.restore()
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.2, 0.0, 0.0]))
    torch.testing.assert_close(norm.running_var, torch.tensor([1.1, 1.0, 1.0]))
    FiniteBuffers(torch.nn.Linear(2, 2)).restore()


def clipped(max_norm, gradients):
    """By hand: the gradients of all parameters as one vector, cut to a length."""
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    return [gradient * min(1.0, max_norm / norm.item()) for gradient in gradients]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_a_step_is_taken_on_gradients_of_at_most_a_norm(dtype, fused, max_norm):
    weights = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.SGD(
        [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.2}], lr=0.1, fused=fused
    )
    gradients = [torch.arange(6.0).view(3, 2), torch.arange(4.0) - 1]
    scaler = Precision("cpu", dtype).build_scaler(max_norm)
    loss = sum((w * g).sum() for w, g in zip(weights, gradients, strict=True))
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    expected = clipped(max_norm, gradients)
    torch.testing.assert_close(weights[0].data, 1 - 0.1 * expected[0])
    torch.testing.assert_close(weights[1].data, 1 - 0.2 * expected[1])


def test_a_clipped_step_whose_gradients_overflow_is_skipped_and_the_scale_halved():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    scaler = Precision("cpu", torch.float16).build_scaler(1.0)
    for gradient, scale in ((torch.inf, 32768.0), (torch.nan, 16384.0), (0.1, 16384.0)):
        before = weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(weight.sum() * gradient).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight, before) == (gradient != 0.1)
        assert scaler.get_scale() == scale
    assert weight.isfinite().all()


def test_what_a_clipping_scaler_saves_is_what_any_scaler_saves():
    for dtype in (None, torch.float16):
        precision = Precision("cpu", dtype)
        assert precision.build_scaler(1.0).state_dict() == precision.build_scaler().state_dict()


def test_one_number_that_is_not_finite_is_found_and_whole_numbers_are_passed_over():
    good = [torch.ones(3), torch.tensor(2**40), torch.zeros(0), torch.ones(2, 2).half()]
    assert all_finite(good)
    assert all_finite([])
    for number in (torch.inf, -torch.inf, torch.nan):
        bad = torch.ones(5)
        bad[3] = number
        assert not all_finite([*good, bad])
