"""Class activation maps: closed forms, the place on the image, pictures and the report page."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from helpers.finished_runs import finish_run
from imgnet_mini.config.data_settings import DEFAULT_DECODING
from imgnet_mini.data.transforms import EvalCrop
from imgnet_mini.errors import ConfigError
from imgnet_mini.inference.explain import class_activation_maps, heat_maps
from imgnet_mini.inference.model import InferenceModel
from imgnet_mini.reporting.heat_map import draw_heat_map

CLASSES = [1, 2]


def build(arch, *, classes=3):
    torch.manual_seed(0)
    options = {"init_weights": False} if arch == "googlenet" else {}
    return torchvision.models.get_model(arch, num_classes=classes, **options).eval()


def images(side, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "arch", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v2", "densenet121", "swin_t"]
)
def test_after_global_pooling_and_a_linear_layer_the_mean_and_the_bias_are_the_logit(arch):
    network = build(arch)
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.normal_(last.bias)
    maps = class_activation_maps(network, images(64), CLASSES)
    assert maps.shape == (2, 2, 2)
    with torch.no_grad():
        logits = network(images(64))
    torch.testing.assert_close(maps.mean((1, 2)) + last.bias[CLASSES], logits[[0, 1], CLASSES])


def test_a_network_that_ends_with_a_map_of_each_class_has_that_map():
    network = build("squeezenet1_1")
    maps = class_activation_maps(network, images(64), CLASSES)
    torch.testing.assert_close(maps.mean((1, 2)), network(images(64))[[0, 1], CLASSES])


def test_other_networks_have_the_map_of_grad_cam():
    network, found = build("mobilenet_v3_small"), []

    def keep(_, __, output):
        output.retain_grad()
        found.append(output)

    network.features.register_forward_hook(keep)
    network(images(64))[[0, 1], CLASSES].sum().backward()
    weights = found[0].grad.mean((2, 3), keepdim=True)  # of the paper, before its ReLU
    expected = 4 * (weights * found[0]).sum(1).detach()
    network.features._forward_hooks.clear()
    torch.testing.assert_close(class_activation_maps(network, images(64), CLASSES), expected)


def test_it_leaves_the_network_as_it_was():
    network = build("resnet18")
    before = [layer._forward_hooks.copy() for layer in network.modules()]
    class_activation_maps(network, images(64), CLASSES)
    assert [layer._forward_hooks for layer in network.modules()] == before
    assert all(weight.grad is None for weight in network.parameters())
    assert torch.is_grad_enabled()


def test_tokens_and_a_single_position_are_refused():
    size = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 1}
    network = VisionTransformer(**size, hidden_dim=8, mlp_dim=8, num_classes=3).eval()
    with pytest.raises(ConfigError, match="a VisionTransformer has no feature map"):
        class_activation_maps(network, images(32), CLASSES)
    with pytest.raises(ConfigError, match=r"32 pixels leave one position .* larger --img-size"):
        class_activation_maps(build("resnet18"), images(32), CLASSES)


def model(side=64):
    return InferenceModel(
        *(build("resnet18"), Path("best.pth"), "0" * 64, "resnet18", side, DEFAULT_DECODING),
        classes=("a", "b", "c"),
        has_class_names=True,
        epoch=0,
        device=torch.device("cpu"),
    )


def test_the_map_of_an_image_and_its_flip_is_mirrored_with_the_image():
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    both = heat_maps(model(), pixels, CLASSES, hflip=True)
    flipped = heat_maps(model(), pixels.flip(3), CLASSES, hflip=True)
    np.testing.assert_allclose(both, flipped[:, :, ::-1], atol=1e-5)
    assert not np.allclose(both, heat_maps(model(), pixels, CLASSES), atol=1e-3)


@pytest.mark.parametrize(
    ("width", "height"), [(200, 200), (240, 100), (101, 251), (37, 255), (250, 3)]
)
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_region_is_what_the_crop_shows(width, height, fit):
    across = np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width))
    down = np.broadcast_to(np.arange(height, dtype=np.uint8)[:, None], (height, width))
    crop = EvalCrop(64, decoding=DEFAULT_DECODING.model_copy(update={"fit": fit}))
    shown = np.asarray(crop(np.stack([across, down, down], 2))).astype(float)
    left, top, right, bottom = crop.region(width, height)
    for start, end, side, values in (
        (left, right, width, shown[31, :, 0]),
        (top, bottom, height, shown[:, 31, 1]),
    ):
        pixel = (end - start) * side / 64
        centers = start * side + (np.arange(64) + 0.5) * pixel - 0.5
        inner = (centers > pixel) & (centers < side - 1 - pixel)  # a resize blurs the edges
        assert np.abs(values[inner] - centers[inner]).max(initial=0) < 1


def test_the_heat_lies_on_its_place_and_what_is_not_seen_is_darker():
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 1
    gray = Image.new("RGB", (200, 100), (128, 128, 128))
    drawn = np.asarray(draw_heat_map(gray, heat, (0.25, 0.0, 0.75, 1.0)), float)
    changed = np.abs(drawn - 128).sum(2)[:, 50:150]
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert row < 50 <= column
    assert changed[-1, 0] == 0
    assert drawn[:, :50].max() < 70 > drawn[:, 150:].max()


def test_predict_writes_a_picture_of_each_image(data, cli):
    torch.save(build("resnet18").state_dict(), "plain.pth")
    Image.new("RGB", (3000, 200), "red").save("data/val/class_00/wide.png")
    plain = ["--checkpoint", "plain.pth", "--arch", "resnet18", "--img-size", 64]
    assert cli("predict", "data/val", *plain, "--explain", "maps", "--json") == 0, cli.err
    names = {f"{number:03d}{end}.cam.jpg" for number in range(3) for end in ("", "-2", "-3")}
    assert {path.name for path in Path("maps").iterdir()} == names | {"wide.cam.jpg"}
    with Image.open("maps/wide.cam.jpg") as picture:
        assert picture.size == (1024, 68)
    assert cli.err.strip().endswith("Wrote 10 pictures to maps")


def test_predict_names_what_a_network_lacks_before_it_begins(data, cli):
    torch.save(build("resnet18").state_dict(), "plain.pth")
    plain = ["--checkpoint", "plain.pth", "--arch", "resnet18", "--img-size", 32]
    assert cli("predict", "data/val", *plain, "--explain", "maps") == 2
    assert cli.says("--explain: images of 32 pixels leave one position")
    assert not Path("maps").exists()


def test_the_report_shows_heat_maps_beside_the_mistakes(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 1, "--img-size", 64) == 0, cli.err
    assert cli("report", "--name", "a") == 0, cli.err
    page = Path("reports/a/index.html").read_text("utf-8")
    mistakes = page[page.index('id="images"') : page.index('id="correct"')]
    assert 0 < mistakes.count("✗") == mistakes.count('class="twins"')
    assert "class activation map" in mistakes
    assert "no heat maps" not in cli.out
    pictures = re.findall(r"data:image/jpeg[^\"]*", mistakes)
    assert len(set(pictures)) == 2 * mistakes.count("✗")


def test_a_report_without_weights_that_fit_is_a_report_without_maps(tmp_path, cli):
    finish_run(tmp_path, tmp_path / "data", ["x", "y", "z"])
    assert cli("report", "--name", "a") == 0, cli.err
    assert "Note: no heat maps of the mistakes: " in cli.out
    assert 'class="twins"' not in Path("reports/a/index.html").read_text("utf-8")
