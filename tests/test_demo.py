from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from imgnet_mini.commands.demo import _write_digits
from imgnet_mini.data.scan import check_images_decode
from imgnet_mini.data.tree import find_splits


def test_every_digit_becomes_one_png_in_one_split(tmp_path):
    assert _write_digits(tmp_path) == 1797
    train, val = find_splits(tmp_path)
    check_images_decode(train, val)
    assert train.classes == val.classes == tuple("0123456789")
    assert (len(train), len(val)) == (1437, 360)
    digits = load_digits()
    for split in (train, val):
        for index in range(0, len(split), 97):
            number = int(split.path(index).stem)
            assert split.classes[split.targets[index]] == str(digits.target[number])
            with Image.open(split.path(index)) as image:
                small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), float)
            assert np.corrcoef(small.ravel(), digits.images[number].ravel())[0, 1] > 0.9


def test_a_folder_with_something_in_it_is_refused(cli):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    assert cli("demo", "--dir", "mine") == 2
    assert cli.says("mine exists and is not empty")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]
