"""The Python API."""

import inspect
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

import imgnet_mini
from imgnet_mini.config.run_config import RunConfig, fields_of
from imgnet_mini.errors import CheckpointError, ConfigError, DataError, ImgnetMiniError
from imgnet_mini.runs.results import EvaluationResult

SMALL = {"data_root": "data", "arch": "shufflenet_v2_x0_5", "img_size": 32, "batch_size": 6}
RUN = {"name": "a", "epochs": 2, "max_lr": 0.05, "workers": 0}
IMAGE = Path("data/val/class_01/000.JPEG")


@pytest.fixture
def run(data):
    return imgnet_mini.train(**SMALL, **RUN)


def test_the_example_of_the_documentation_runs(data, capsys):
    page = Path(__file__).parents[1] / "docs/python-api.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    Image.new("RGB", (80, 60), "red").save("photo.jpg")
    exec(compile(example, str(page), "exec"), {})
    shown = capsys.readouterr().out
    assert re.search(r"best top-1 \d+\.\d % after epoch [01]", shown)
    assert re.search(r"\d+ images: top-1 ", shown)
    assert "('class_0" in shown


def test_training_evaluating_and_predicting_agree(run):
    assert (run.name, run.best_epoch in (0, 1)) == ("a", True)
    for path in (run.best_checkpoint, run.last_checkpoint, run.train_log, run.config):
        assert path.is_file()
    metrics = imgnet_mini.evaluate(name="a", workers=0)
    assert isinstance(metrics, EvaluationResult)
    assert metrics == EvaluationResult.read(Path("reports/a/metrics.json"))
    assert metrics.epoch == run.best_epoch
    model = imgnet_mini.load_model(run.best_checkpoint, device="cpu")
    files = sorted(Path("data/val").rglob("*.*"))
    right = [
        prediction.classes[0] == file.parent.name
        for file, prediction in zip(files, model.predict(files, batch_size=4), strict=True)
    ]
    assert 100 * sum(right) / len(right) == pytest.approx(metrics.top1)


def test_files_pillow_images_and_tensors_get_the_same_prediction(run):
    model = imgnet_mini.load_model(name="a")
    (of_file,) = imgnet_mini.predict(model, IMAGE)
    assert [*imgnet_mini.predict(run.best_checkpoint, [str(IMAGE)])] == [of_file]
    with Image.open(IMAGE) as image:
        assert imgnet_mini.predict(model, image) == [of_file]
    assert of_file.classes == tuple(model.classes[index] for index in of_file.indices)
    assert sum(of_file.probabilities) == pytest.approx(1)
    assert [*of_file.probabilities] == sorted(of_file.probabilities, reverse=True)
    pixels = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    assert len(model.predict(pixels)) == 3
    assert model.predict(pixels[:1], top_k=1)[0].indices == model.predict(pixels)[0].indices[:1]
    assert model.predict([]) == []


def test_images_that_cannot_be_used_are_a_data_error(run):
    model = imgnet_mini.load_model(name="a")
    Path("broken.png").write_text("no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        model.predict(["broken.png"])
    for pixels in (torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(DataError, match=r"give uint8 of shape \(N, 3, 32, 32\)"):
            model.predict(pixels)
    with pytest.raises(ConfigError, match="has 3 classes"):
        model.predict([IMAGE], top_k=4)


def test_an_existing_run_is_resumed_or_replaced_only_on_request(run):
    with pytest.raises(ConfigError, match="a run named a exists"):
        imgnet_mini.train(**SMALL, **RUN)
    assert imgnet_mini.train(**SMALL, **RUN, resume=True) == run
    again = imgnet_mini.train(**SMALL, **RUN | {"epochs": 1}, overwrite=True)
    assert again.best_epoch == 0
    with pytest.raises(ConfigError, match="resume and overwrite"):
        imgnet_mini.train(**SMALL, **RUN, resume=True, overwrite=True)


def test_training_works_in_a_thread(data):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(imgnet_mini.train(**SMALL, **RUN | {"epochs": 1}))
    )
    thread.start()
    thread.join()
    assert results[0].best_checkpoint.is_file()


def test_settings_come_from_recipe_file_and_keywords_in_this_order(data, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "imgnet_mini.commands.train.run", lambda config, **_: taken.append(config) or 1 / 0
    )
    Path("own.toml").write_text("[schedule]\nepochs = 7\nmax_lr = 0.3\n")
    with pytest.raises(ZeroDivisionError):
        imgnet_mini.train(recipe="mini", config="own.toml", max_lr=0.2, accumulate=2)
    (config,) = taken
    assert (config.recipe, config.schedule.epochs, config.schedule.max_lr) == ("mini", 7, 0.2)
    assert config.data.grad_accum_steps == 2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: imgnet_mini.train(epoch=3), ConfigError, "epoch: unknown setting; .* epochs"),
        (lambda: imgnet_mini.train(epochs=0), ConfigError, "schedule.epochs"),
        (lambda: imgnet_mini.train(recipe="none"), ConfigError, "none"),
        (lambda: imgnet_mini.train(data_root="nowhere"), DataError, "nowhere"),
        (lambda: imgnet_mini.evaluate(views="all"), ConfigError, "center, hflip, ten-crop"),
        (lambda: imgnet_mini.load_model("nowhere.pth"), CheckpointError, r"nowhere\.pth"),
    ],
)
def test_a_mistake_raises_an_error_with_the_cure(call, error, words):
    with pytest.raises(error, match=words) as raised:
        call()
    assert isinstance(raised.value, imgnet_mini.ImgnetMiniError)
    assert imgnet_mini.ImgnetMiniError is ImgnetMiniError


def test_no_setting_has_the_name_of_a_parameter():
    settings = {name for section in RunConfig.model_fields for name in fields_of(section)}
    for function in (imgnet_mini.train, imgnet_mini.evaluate, imgnet_mini.load_model):
        assert not settings & inspect.signature(function).parameters.keys()


def test_importing_the_package_does_not_import_torch():
    script = (
        "import sys, imgnet_mini\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(imgnet_mini.__all__) <= set(dir(imgnet_mini))\n"
        "for name in imgnet_mini.__all__: getattr(imgnet_mini, name)\n"
        "assert not hasattr(imgnet_mini, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
