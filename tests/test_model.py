import pytest
import torch
import torchvision
from torchvision.models.resnet import Bottleneck

from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.model import build_model, build_with_weights

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _keep_generator():
    with torch.random.fork_rng(devices=[]):
        yield


def build(arch="shufflenet_v2_x0_5", *, classes=5, img_size=64, seed=3, device=CPU, **more):
    model = ModelConfig(arch=arch, **more)
    return build_model(model, classes=classes, img_size=img_size, seed=seed, device=device)


def equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("arch", "near"),
    [("resnet5O", "resnet50"), ("ResNet50", "resnet50"), ("mobilenetv2", "mobilenet_v2")],
)
def test_an_unknown_network_suggests_near_names(arch, near):
    with pytest.raises(ConfigError, match=rf"--arch {arch}: .*did you mean .*{near}"):
        build(arch)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ConfigError, match=r"no such network$"):
        build("qqqqqq")


@pytest.mark.parametrize("arch", ["fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18", ""])
def test_networks_that_do_not_classify_images_are_refused(arch):
    with pytest.raises(ConfigError, match="no such network"):
        build(arch)


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(1)
    first = build()
    torch.manual_seed(2)
    assert equal(first, build())
    assert not equal(first, build(seed=4))


@pytest.mark.parametrize("arch", ["resnet50", "shufflenet_v2_x0_5"])
def test_the_weights_fit_plain_torchvision_strictly(arch):
    plain = torchvision.models.get_model(arch, weights=None, num_classes=7)
    assert plain.load_state_dict(build(arch, classes=7).state_dict(), strict=True)


def test_a_network_is_channels_last_and_has_an_output_per_class():
    network = build(classes=9).eval()
    assert network.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 9)


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_no_network_has_several_outputs_in_training(arch):
    assert output_shape(arch, 96) == (2, 5)


@pytest.mark.parametrize("img_size", [64, 96])
def test_a_transformer_takes_the_image_size(img_size):
    assert output_shape("vit_b_32", img_size) == (2, 5)


@pytest.mark.parametrize(
    "arch",
    ["resnet18", "regnet_y_400mf", "swin_t", "vit_b_32", "googlenet", "densenet121"],
)
def test_a_network_made_of_its_weights_says_what_it_said_before(arch):
    network = build(arch, classes=4, img_size=96).eval()
    model = ModelConfig(arch=arch)
    again = build_with_weights(model, network.state_dict(), classes=4, img_size=96)
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))
    assert not again.training


def test_weights_of_less_precision_are_used_in_float32():
    network = build().eval()
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    model = ModelConfig(arch="shufflenet_v2_x0_5")
    again = build_with_weights(model, half, classes=5, img_size=64)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_weights_of_another_network_are_refused():
    weights = build("shufflenet_v2_x0_5").state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for fc"):
        build_with_weights(ModelConfig(arch="shufflenet_v2_x0_5"), weights, classes=6, img_size=64)


def output_shape(arch, img_size):
    """Without computing anything, nor drawing the many weights."""
    with torch.device("meta") as device:
        network = build(arch, img_size=img_size, device=device).train()
        return network(torch.empty(2, 3, img_size, img_size)).shape


def test_an_image_size_that_does_not_fit_the_network_is_refused():
    with pytest.raises(ConfigError, match="--arch vit_b_32 with --img-size 50"):
        build("vit_b_32", img_size=50)


def last_norms_of_blocks(network):
    """Name and weight, by the papers' description: the norm after a block's last convolution."""
    blocks = [
        (place, module)
        for place, module in network.named_modules()
        if isinstance(module, torchvision.models.resnet.BasicBlock | Bottleneck)
    ]
    return {
        f"{place}.{'bn3' if isinstance(block, Bottleneck) else 'bn2'}.weight"
        for place, block in blocks
    }


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_zero_init_changes_the_last_norm_of_each_block_to_zeros_and_nothing_else(arch):
    zeroed, plain = build(arch, zero_init_residual=True), build(arch)
    weights = plain.state_dict()
    changed = {
        name
        for name, tensor in zeroed.state_dict().items()
        if not torch.equal(tensor, weights[name])
    }
    assert changed == last_norms_of_blocks(plain)
    assert len(changed) == {"resnet18": 8}.get(arch, 16)
    assert not any(zeroed.state_dict()[name].any() for name in changed)


def test_without_zero_init_weights_are_those_that_torchvision_draws():
    ours = build("resnet18", seed=3)
    torch.manual_seed(3)
    assert equal(ours, torchvision.models.resnet18(weights=None, num_classes=5))


@pytest.mark.parametrize("arch", ["shufflenet_v2_x0_5", "vit_b_32", "regnet_y_400mf"])
def test_zero_init_of_a_network_that_knows_none_is_refused_with_the_cure(arch):
    with pytest.raises(
        ConfigError,
        match=rf"--zero-init-residual .* not for {arch}: use --no-zero-init-residual, or .*--",
    ):
        build(arch, zero_init_residual=True)
    weights = build("shufflenet_v2_x0_5").state_dict()
    model = ModelConfig(arch="shufflenet_v2_x0_5", zero_init_residual=True)
    build_with_weights(model, weights, classes=5, img_size=64)  # which are there already
