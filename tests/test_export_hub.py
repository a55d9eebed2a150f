import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import imgnet_mini
from conftest import SMALL, run_quietly, write_folder
from helpers.hub_server import TOKEN, serve_hub
from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.data.transforms import EvalCrop, Normalize, eval_resize
from imgnet_mini.export import formats, hub

pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")

NAMES = ["[red]{{7*7}}|", "n01440764", "n01443537"]
FOLDER = Path("exports/a/hub")
FILES = {"model.safetensors", "config.json", "README.md", *hub.CURVES}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the run `a` of a resnet18, evaluated, and its folder for the Hub."""
    folder = tmp_path_factory.mktemp("exported")
    write_folder(folder / "data", train=8, val=3, classes=NAMES)
    small = [*SMALL, "--arch", "resnet18", "--epochs", 1, "--max-lr", 0.05]
    run_quietly(folder, "train", *small, "--name", "a")
    run_quietly(folder, "evaluate", "--name", "a")
    run_quietly(folder, "export", "--name", "a", "--format", "hub", "--license", "cc-by-nc-4.0")
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    return FOLDER


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The Hub, with the right login; what is downloaded is kept in the test's folder."""
    from huggingface_hub import constants  # noqa: PLC0415

    with serve_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
            "https://huggingface.co", server.address
        )
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def push(cli):
    return lambda *args: cli("export", "--name", "a", "--format", "hub", "--push", *args)


def logits_of(model, images):
    with torch.no_grad():
        return model.eval()(images)


def own_logits(images):
    return logits_of(imgnet_mini.load_model("checkpoints/a/best.pth").module, images)


def test_timm_loads_the_folder_with_the_same_logits(folder):
    timm = pytest.importorskip("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    images = torch.randn(4, 3, 32, 32)
    assert logits_of(model, images).numpy() == pytest.approx(own_logits(images).numpy(), abs=1e-5)
    assert model.pretrained_cfg["label_names"] == sorted(NAMES)
    assert model.pretrained_cfg["label_descriptions"]["n01440764"] == "tench"
    assert model.pretrained_cfg["license"] == "cc-by-nc-4.0"
    assert "tag" not in model.pretrained_cfg
    tuned = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7, in_chans=1)
    assert logits_of(tuned, images[:, :1]).shape == (4, 7)


def test_timm_prepares_images_as_predict_does(folder):
    timm = pytest.importorskip("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for width, height in ((32, 32), (301, 97), (97, 301), (64, 65)):
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        crop = torch.from_numpy(np.array(EvalCrop(32)(pixels))).permute(2, 0, 1).unsqueeze(0)
        ours = Normalize(torch.device("cpu"))(crop)[0].numpy()
        assert transform(Image.fromarray(pixels)).numpy() == pytest.approx(ours, abs=1e-5)


def test_timm_resizes_to_the_same_side_for_every_image_size():
    for side in range(32, 1025):
        description = formats.describe("resnet18", side, ["a"], Decoding())
        said = hub.describe_for_timm(description, license_id="mit")["pretrained_cfg"]
        assert math.floor(side / said["crop_pct"]) == eval_resize(side)  # timm's formula
    assert formats.describe("resnet18", 224, ["a"], Decoding())["preprocessing"]["resize"] == 256


def test_every_network_that_timm_is_said_to_load_has_the_same_tensors():
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    assert set(hub._TIMM_LAYERS) <= set(timm.list_models())
    for arch in ("resnet18", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "inception_v3"):
        layers = hub._TIMM_LAYERS[arch]
        options = {"aux_logits": False, "init_weights": False} if arch == "inception_v3" else {}
        with torch.device("meta"):
            ours = torchvision.models.get_model(arch, num_classes=3, **options).state_dict()
            theirs = timm.create_model(arch, num_classes=3).state_dict()
        assert {name: tensor.shape for name, tensor in ours.items()} == {
            name: tensor.shape for name, tensor in theirs.items()
        }
        assert {f"{layer}.weight" for layer in layers.split()} <= ours.keys()


def test_the_card_tells_license_results_and_classes(folder):
    from huggingface_hub import ModelCard  # noqa: PLC0415

    assert {path.name for path in folder.iterdir()} == FILES
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "timm"
    metrics = json.loads(Path("reports/a/metrics.json").read_bytes())
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert measured == {
        "Top-1 accuracy (%)": pytest.approx(metrics["top1"], abs=1e-3),
        "Top-5 accuracy (%)": pytest.approx(metrics["top5"], abs=1e-3),
    }
    for words in ("Evaluated in fp32", "| 1 | `n01440764` | tench |", "chosen by its top-1"):
        assert words in card.text
    assert "| 0 | <code>&#91;red&#93;&#123;&#123;7&#42;7" in card.text
    for picture in hub.CURVES:
        assert f'src="{picture}"' in card.text
    assert str(Path.cwd()) not in card.text


def test_what_was_pushed_is_loaded_by_timm_from_the_hub(folder, push, cli, server, tmp_path):
    timm = pytest.importorskip("timm")
    readme = folder / "README.md"
    readme.write_text(readme.read_text("utf-8") + "\nMine.\n", "utf-8")
    Path(folder, "secret.txt").write_text("no", "utf-8")
    assert push("me/model", "--private") == 0, cli.err
    assert f"Uploaded {folder} to {server.address}/me/model" in cli.out
    assert server.visibility == "private"
    assert server.files.keys() == FILES
    card = server.files["README.md"].decode()
    assert card.endswith("\nMine.\n")  # uploaded as it is, with the name of the repository
    assert 'create_model("hf-hub:me/model", pretrained=True)' in card
    model = timm.create_model("hf-hub:me/model", pretrained=True, cache_dir=tmp_path / "cache")
    images = torch.randn(2, 3, 32, 32)
    assert logits_of(model, images).numpy() == pytest.approx(own_logits(images).numpy(), abs=1e-5)


def test_nothing_is_uploaded_without_push(folder, cli, server):
    assert cli("export", "--name", "a", "--format", "hub", "--overwrite") == 0, cli.err
    assert "Its README.md names 'unknown' as license: set it with --license" in cli.out
    assert server.requests == []


@pytest.mark.parametrize(
    ("repository", "token", "code", "words"),
    [
        ("me/model", "hf_wrong", 5, "the Hub has refused the login"),
        ("you/model", TOKEN, 5, "the login may not write there, or there is no such owner"),
        ("a/b/c", TOKEN, 2, "give the name of a repository, such as NAME or OWNER/NAME"),
        ("me/model", None, 2, "there is no login of the Hugging Face Hub on this machine"),
    ],
)
def test_a_refused_upload_is_one_message_and_the_folder_stays(
    folder, push, cli, server, monkeypatch, repository, token, code, words
):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert push(repository) == code
    assert cli.says(f"--push {repository}: ")
    assert cli.says(words)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert server.files == {}


def test_a_hub_that_cannot_be_reached_is_one_message_and_the_folder_stays(
    folder, push, cli, server
):
    server.server_close()
    shutil.rmtree(folder)
    assert push("me/model") == 5
    assert cli.says("the Hub cannot be reached")
    assert cli.says(f"{folder} is complete: the same command tries again")
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_folder_that_is_there_is_replaced_only_on_demand(folder, cli):
    other = folder / "mine.txt"
    other.write_text("mine", "utf-8")
    assert cli("export", "--name", "a", "--format", "hub") == 2
    assert cli.says(f"{folder} exists; replace it with --overwrite")
    assert "cc-by-nc-4.0" in (folder / "README.md").read_text("utf-8")
    assert cli("export", "--name", "a", "--format", "hub", "--overwrite") == 0, cli.err
    assert "cc-by-nc-4.0" not in (folder / "README.md").read_text("utf-8")
    assert other.read_text("utf-8") == "mine"


def test_a_network_that_timm_lacks_makes_no_claim_to_be_timms(data, cli, copy_run, tmp_path):
    copy_run(tmp_path, "--epochs", 1)
    assert cli("export", "--name", "a", "--format", "hub", "--output", "out-hub") == 0, cli.err
    assert "timm has no network with the tensors of this shufflenet_v2_x0_5" in cli.out
    assert "architecture" not in json.loads(Path("out-hub/config.json").read_bytes())
    card = Path("out-hub/README.md").read_text("utf-8")
    assert "library_name" not in card
    assert "timm has no network with these tensors" in card
    assert "Validated after epoch 0, in the precision of the training" in card
    assert cli("predict", "data/val", "--checkpoint", "out-hub/model.safetensors") == 0, cli.err


def test_a_checkpoint_without_its_run_gets_a_card_without_results(folder, cli):
    shutil.copy("checkpoints/a/best.pth", "other.pth")
    for place in ("out", "checkpoints", "exports"):
        shutil.rmtree(place)
    arguments = ("--checkpoint", "other.pth", "--format", "hub", "--output", "hub")
    assert cli("export", *arguments) == 0, cli.err
    card = Path("hub/README.md").read_text("utf-8")
    assert "These weights have not been evaluated" in card
    assert "model-index" not in card
    assert {path.name for path in Path("hub").iterdir()} == FILES - set(hub.CURVES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "onnx", "--push", "me/model"], "are for --format hub"),
        (["--format", "hub", "--private"], "add --push"),
        (["--format", "hub", "--license", "My License"], "give an identifier"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, cli, arguments, words):
    assert cli("export", "--name", "a", "--overwrite", *arguments) == 2
    assert cli.says(words)
