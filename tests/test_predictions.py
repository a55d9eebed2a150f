import csv
import os

import numpy as np
import pytest

from imgnet_mini.errors import DataError, WriteError
from imgnet_mini.runs.predictions import Predictions, load_predictions

ODD = ("plain", "a,b", 'quote "x"', "new\nline", "ünï😀", " space ", "", "a\r\nb")


def make(classes=ODD, images=12, top=5):
    generator = np.random.default_rng(0)
    order = np.stack([generator.permutation(len(classes))[:top] for _ in range(images)])
    probabilities = np.sort(generator.random((images, top)).round(6))[:, ::-1]
    targets = generator.integers(0, len(classes), images)
    names = [f"images/{classes[target]}/{i}.JPEG" for i, target in enumerate(targets)]
    return Predictions(names, tuple(classes), targets, order, probabilities)


def assert_same(ours, theirs):
    assert ours.images == theirs.images
    assert ours.classes == theirs.classes
    for name in ("targets", "top", "probabilities"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("classes", "top"), [(ODD, 5), (ODD[:2], 2), (("only",), 1)])
def test_names_with_commas_quotes_and_new_lines_come_back(tmp_path, classes, top):
    predictions = make(classes, top=top)
    path = tmp_path / "reports" / "predictions.csv"
    predictions.save(path)
    assert_same(load_predictions(path, predictions.classes), predictions)


@pytest.mark.skipif(os.name == "nt", reason="file names are text on Windows")
def test_names_that_are_not_utf_8_come_back(tmp_path):
    predictions = make((os.fsdecode(b"caf\xe9"), "plain"), top=2)
    predictions.save(tmp_path / "p.csv")
    assert_same(load_predictions(tmp_path / "p.csv", predictions.classes), predictions)


def test_the_file_spells_names_out_for_other_programs(tmp_path):
    predictions = make(("cat", "dog", "mouse"), images=2, top=3)
    predictions.save(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "true", "pred1", "prob1", "pred2", "prob2", "pred3", "prob3"]
    assert rows[1]["true"] == predictions.classes[predictions.targets[1]]
    assert rows[1]["pred3"] == predictions.classes[predictions.top[1, 2]]
    assert float(rows[1]["prob1"]) == predictions.probabilities[1, 0]
    assert b"\r" not in (tmp_path / "p.csv").read_bytes()


def test_an_unknown_class_is_refused_with_the_cure(tmp_path):
    make(("cat", "dog"), top=2).save(tmp_path / "p.csv")
    with pytest.raises(DataError, match="imgnet-mini evaluate") as error:
        load_predictions(tmp_path / "p.csv", ("cat", "mouse"))
    assert str(tmp_path / "p.csv") in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image,true,pred1,prob1\nx\n",
        "image,true,pred1,prob1\nx,cat,cat,much\n",
        "image,true,pred1,prob1,pred2,prob2\nx,cat,cat,0.5\ny,cat,cat,0.5,cat,0.1\n",
        "image,true,pred1,prob1\nx,cat,cat\n",
    ],
    ids=["empty", "short row", "no number", "rows of different lengths", "no probability"],
)
def test_a_malformed_file_is_refused_by_name(tmp_path, text):
    path = tmp_path / "p.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError) as error:
        load_predictions(path, ("cat",))
    assert str(path) in str(error.value)


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "p.csv").write_bytes(b"image\n\xff\xfe\x00")
    with pytest.raises(DataError, match=r"p\.csv"):
        load_predictions(tmp_path / "p.csv", ("cat",))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot read the predictions"):
        load_predictions(tmp_path / "absent.csv", ("cat",))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"p\.csv"):
        make().save(tmp_path / "file" / "p.csv")


@pytest.mark.parametrize("image", ["../../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_an_image_outside_the_validation_folder_is_refused(tmp_path, image):
    predictions = make(ODD, images=1)
    predictions.images[0] = image
    path = tmp_path / "predictions.csv"
    predictions.save(path)
    with pytest.raises(DataError, match=r"secret\.png lies outside the validation folder"):
        load_predictions(path, predictions.classes)
