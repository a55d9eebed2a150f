import hashlib
import os
import random
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from imgnet_mini.checkpoint.reader import file_sha256, load_tensors
from imgnet_mini.errors import CheckpointError

WEIGHTS = torch.arange(6000, dtype=torch.float32).view(60, 100)


def content():
    return {
        "model": {"w": WEIGHTS, "half": torch.ones(3, dtype=torch.bfloat16)},
        "epoch": 3,
        "name": "é",
        "records": [{"loss": 0.1, "top1": None}],
        "flags": (True, 2.5),
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(content(), path)
    return path


def assert_same(loaded):
    expected = content()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.pop("model").items():
        assert loaded["model"][name].dtype == tensor.dtype
        assert torch.equal(loaded["model"][name], tensor)
    assert {name: loaded[name] for name in expected} == expected


def assert_refused(path, message=""):
    with pytest.raises(CheckpointError) as error:
        load_tensors(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "weights_only" not in str(error.value)


def test_what_was_saved_comes_back(path):
    assert_same(load_tensors(path))


def test_torch_loads_it_safely_without_this_package(path):
    assert_same(torch.load(path, weights_only=True))


def test_a_whole_module_is_refused(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "m.pth")
    assert_refused(tmp_path / "m.pth", "could run code")


def test_a_flipped_bit_of_the_weights_is_found(path):
    whole = path.read_bytes()
    start = whole.index(WEIGHTS.numpy().tobytes())
    chance = random.Random(0)
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[start + chance.randrange(WEIGHTS.nbytes)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert_refused(path, "is damaged")


def test_a_flipped_bit_anywhere_else_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "small.pth"
    torch.save({"model": {"w": torch.arange(3.0)}, "epoch": 3}, path)
    whole, expected = path.read_bytes(), repr(load_tensors(path))
    chance = random.Random(1)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with suppress(CheckpointError):
            assert repr(load_tensors(path)) == expected


def central_entries(whole):
    """Where the zip file's directory describes each of its members."""
    place = whole.find(b"PK\x01\x02")
    while place >= 0:
        yield place
        place = whole.find(b"PK\x01\x02", place + 1)


@pytest.mark.parametrize(
    ("offset", "bit", "damage"),
    [(10, 3, "compressed"), (38, 4, "a folder"), (46, 7, "a name that is not UTF-8")],
)
def test_a_flipped_bit_in_the_directory_of_the_file_is_found(path, offset, bit, damage):
    whole = path.read_bytes()
    for entry in central_entries(whole):
        damaged = bytearray(whole)
        damaged[entry + offset] ^= 1 << bit
        path.write_bytes(damaged)
        with suppress(CheckpointError):
            assert_same(load_tensors(path))


def test_a_file_cut_short_is_found_wherever_it_ends(path):
    whole = path.read_bytes()
    chance = random.Random(0)
    for keep in [1, 4, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(17))]:
        path.write_bytes(whole[:keep])
        assert_refused(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    for text in (b"", b"epoch,loss\n0,1\n", b"PK\x05\x06" + bytes(18), bytes(1000)):
        path.write_bytes(text)
        assert_refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    assert_refused(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    assert_refused(tmp_path / "absent.pth", "No such file")
    assert_refused(tmp_path)


@pytest.mark.parametrize("saved", [torch.ones(3), [1, 2], "text", None])
def test_anything_but_a_dictionary_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", f"holds a {type(saved).__name__}, not a checkpoint")


def test_a_plain_state_dict_loads(tmp_path):
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "plain.pth")
    loaded = load_tensors(tmp_path / "plain.pth")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in layer.state_dict().items())


def test_the_digest_is_that_of_the_file(path, tmp_path):
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    for wrong in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="cannot read"):
            file_sha256(wrong)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_state_dicts_of_torchvision_load_with_parameters_and_all(tmp_path, name):
    network = get_model(name, num_classes=3)
    for saved in (network.state_dict(), dict(network.named_parameters())):
        torch.save(saved, tmp_path / "plain.pth")
        assert load_tensors(tmp_path / "plain.pth").keys() == saved.keys()


def test_tensors_that_share_their_numbers_and_views_of_a_part_load(tmp_path):
    numbers = torch.arange(12.0).view(3, 4)
    saved = {"all": numbers, "same": numbers, "part": numbers[1:, ::2], "none": torch.empty(0, 3)}
    saved |= {"one": torch.tensor(2.0), "turned": numbers.t()}
    torch.save(saved, tmp_path / "x.pth")
    loaded = load_tensors(tmp_path / "x.pth")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


@pytest.mark.skipif(os.name != "posix", reason="Windows has neither")
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_what_has_no_end_is_refused_before_it_is_read(tmp_path, kind):
    path = Path("/dev/zero") if kind == "device" else tmp_path / "pipe"
    if kind == "pipe":
        os.mkfifo(path)
    for read in (load_tensors, file_sha256):
        with pytest.raises(CheckpointError, match=f"cannot read {path}: it is not a file"):
            read(path)
