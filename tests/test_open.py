import json
import os

import numpy as np
import pytest
import torch

from helpers.packs import DATA, PACK, build
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import build_eval_loader, build_train_loader
from imgnet_mini.data.splits import open_splits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import DataError

TRAIN = DATA / "train" / "class_01" / "001.png"
VAL = DATA / "val" / "class_01" / "001.png"


def config(loader="auto", *, img_size=32, pack_dir=None, skip_bad=False):
    run = {"data_root": DATA} | ({"pack_dir": pack_dir} if pack_dir else {})
    values = {"loader": loader, "img_size": img_size, "batch_size": 6, "workers": 0}
    values["skip_bad"] = skip_bad
    return RunConfig().override({"run": run, "data": values})


def choose(*args, training=True, skipped=None, checked=False, **settings):
    made = config(*args, **settings)
    return open_splits(made.run, made.data, training=training, skipped=skipped, checked=checked)


def break_in_half(path):
    path.write_bytes(path.read_bytes()[:-100])


def touched(path):
    path.write_bytes(path.read_bytes() + b"  ")


@pytest.mark.parametrize("loader", ["auto", "folder"])
def test_without_a_pack_the_files_are_used_and_nothing_is_said(data, loader):
    images = choose(loader)
    assert images.loader == "folder"
    assert images.pack is None
    assert images.notes == ()
    assert images.packed_val(32) is None
    for ours, theirs in zip((images.train, images.val), find_splits(data), strict=True):
        assert ours.files.tolist() == theirs.files.tolist()


@pytest.mark.parametrize("loader", ["auto", "pack"])
def test_a_pack_that_fits_is_taken_and_nothing_is_said(data, loader):
    manifest = build()
    images = choose(loader)
    assert images.loader == "pack"
    assert images.pack.manifest == manifest
    assert images.notes == ()
    assert images.packed_val(32) is images.pack.val
    assert images.train is images.pack.train.images
    assert images.val is images.pack.val.images


def test_the_folder_can_be_asked_for_although_there_is_a_pack(data):
    build()
    assert choose("folder").pack is None


@pytest.mark.parametrize("loader", ["auto", "pack"])
def test_a_pack_elsewhere_is_found_by_its_name(data, tmp_path, loader):
    build(tmp_path / "elsewhere")
    assert choose().pack is None
    assert choose(loader, pack_dir=tmp_path / "elsewhere").pack is not None


def test_a_pack_that_was_asked_for_and_is_not_there_is_an_error_with_the_cure(data):
    with pytest.raises(DataError, match=f"no pack in {PACK}.*imgnet-mini prepare"):
        choose("pack")


@pytest.mark.parametrize("path", [TRAIN, VAL])
def test_a_stale_pack_is_refused_where_asked_for_and_else_noted_and_passed_over(data, path):
    build()
    touched(path)
    with pytest.raises(DataError, match="out of date"):
        choose("pack")
    images = choose("auto")
    assert images.pack is None
    (note,) = images.notes
    assert note.startswith("Note: the pack in data/pack is out of date: 1 files")
    assert "imgnet-mini prepare" in note
    assert "files are decoded" in note


@pytest.mark.parametrize("name", ["manifest.json", "train_images.npy", "val_index.npy"])
def test_a_damaged_pack_is_refused_where_asked_for_and_else_noted_and_passed_over(data, name):
    build()
    (PACK / name).write_bytes(b"\x00")
    with pytest.raises(DataError, match=name):
        choose("pack")
    images = choose("auto")
    assert images.pack is None
    assert name in images.notes[0]


def test_an_unfinished_build_is_no_pack_and_not_worth_a_note(data):
    PACK.with_name("pack.partial").mkdir()
    images = choose("auto")
    assert images.pack is None
    assert images.notes == ()


@pytest.mark.parametrize("path", [TRAIN, VAL])
@pytest.mark.parametrize("loader", ["auto", "folder"])
def test_broken_files_that_would_be_read_are_refused(data, path, loader):
    break_in_half(path)
    with pytest.raises(DataError, match=str(path)):
        choose(loader)


def test_broken_files_of_a_stale_pack_are_refused_since_files_are_read(data):
    build()
    break_in_half(TRAIN)
    with pytest.raises(DataError, match=str(TRAIN)):
        choose("auto")


@pytest.mark.parametrize("loader", ["auto", "pack"])
def test_broken_files_that_the_pack_left_out_do_no_harm(data, loader):
    break_in_half(TRAIN)
    break_in_half(VAL)
    build(skip=True)
    images = choose(loader)
    assert (len(images.train), len(images.val)) == (23, 8)


def test_broken_files_that_will_not_be_read_do_no_harm(data):
    break_in_half(TRAIN)
    images = choose("folder", training=False)
    assert len(images.train) == 24


def test_a_pack_for_another_size_trains_and_the_files_validate(data):
    build(pack_size=48, img_size=40)
    made = config("auto")
    images = choose("auto")
    assert images.loader == "pack"
    assert images.packed_val(32) is None
    assert images.packed_val(40) is not None
    device = torch.device("cpu")
    train = build_train_loader(made.data, images, seed=0, device=device)
    val = build_eval_loader(made.data, images, device=device)
    plain = build_eval_loader(made.data, choose("folder"), device=device)
    assert all(batch.shape == (6, 3, 32, 32) for batch, _ in train.epoch(0))
    for (ours, classes), (theirs, expected) in zip(val.epoch(0), plain.epoch(0), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(classes, expected)
    for loader in (train, val, plain):
        loader.close()


def test_a_pack_for_another_size_leaves_out_of_validation_what_it_skipped(data):
    break_in_half(VAL)
    build(pack_size=48, img_size=40, skip=True)
    images = choose("pack")
    assert len(images.val) == 8
    assert b"class_01/001.png" not in images.val.files.tolist()
    loader = build_eval_loader(config().data, images, device=torch.device("cpu"))
    assert sum(len(batch) for batch, _ in loader.epoch(0)) == 8
    loader.close()


def test_a_pack_for_another_size_does_not_hide_a_broken_validation_file(data, monkeypatch):
    break_in_half(VAL)
    content = VAL.read_bytes()
    build(pack_size=48, img_size=40, skip=True)
    # As if an older decoder had taken it: packed, and broken to the check of today.
    skipped = np.load(PACK / "val_skipped.npy")
    assert len(skipped) == 1
    index = np.load(PACK / "val_index.npy")
    pixels = np.load(PACK / "val_images.npy")
    np.save(PACK / "val_index.npy", np.concatenate([index, skipped]))
    np.save(PACK / "val_skipped.npy", skipped[:0])
    np.save(PACK / "val_images.npy", np.concatenate([pixels, pixels[:1]]))
    (PACK / "val_source.npy").unlink()
    manifest = PACK / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"skipped": []}))
    assert VAL.read_bytes() == content
    with pytest.raises(DataError, match=str(VAL)):
        choose("pack")


def hide_damage(path):
    """Damage that only decoding finds."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + content[half + 9 :])


TRAIN_PLACE, VAL_PLACE = "train/class_01/001.png", "val/class_01/001.png"


@pytest.mark.parametrize("loader", ["auto", "folder"])
def test_bad_images_are_found_by_decoding_left_out_counted_and_named(data, loader):
    hide_damage(TRAIN)
    break_in_half(VAL)
    images = choose(loader, skip_bad=True)
    assert list(images.skipped) == [TRAIN_PLACE, VAL_PLACE]
    assert all(type(text) is str and text for text in images.skipped.values())
    assert images.notes == ("Note: 2 broken image file(s) left out, 1 of train/ and 1 of val/",)
    assert (len(images.train), len(images.val)) == (23, 8)
    assert b"class_01/001.png" not in [*images.train.files, *images.val.files]
    assert images.train.targets.tolist() == [0] * 8 + [1] * 7 + [2] * 8


def test_without_bad_images_nothing_is_left_out_or_said(data):
    images = choose(skip_bad=True)
    assert (images.skipped, images.notes) == ({}, ())
    assert len(images.train) == 24


def test_a_class_that_would_lose_all_its_images_is_an_error(data):
    for path in (DATA / "train" / "class_01").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no image can be decoded in class_01 of data/train"):
        choose(skip_bad=True)


def test_only_what_is_read_is_scanned(data):
    hide_damage(TRAIN)
    assert choose(skip_bad=True, training=False).skipped == {}


@pytest.mark.parametrize("skip_bad", [False, True])
def test_on_resume_exactly_the_recorded_files_are_left_out_without_a_scan(
    data, monkeypatch, skip_bad
):
    hide_damage(TRAIN)
    hide_damage(VAL)
    monkeypatch.setattr("imgnet_mini.data.splits.find_broken_images", pytest.fail)
    recorded = {TRAIN_PLACE: "broken", "train/class_00/gone.jpg": "it was there once"}
    images = choose(skip_bad=skip_bad, skipped=recorded)
    assert images.skipped == recorded
    assert (len(images.train), len(images.val)) == (23, 9)
    assert len(choose(skip_bad=skip_bad, skipped={}).train) == 24


def test_on_resume_the_rest_gets_the_quick_check(data):
    break_in_half(TRAIN)
    break_in_half(VAL)
    with pytest.raises(DataError, match=r"^1 broken") as error:
        choose(skip_bad=True, skipped={TRAIN_PLACE: "broken"})
    assert str(VAL) in str(error.value)
    assert str(TRAIN) not in str(error.value)


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("loader", ["auto", "pack"])
def test_what_a_pack_left_out_is_named_in_the_same_way(data, loader, skip_bad):
    hide_damage(TRAIN)
    break_in_half(VAL)
    from_files = choose("folder", skip_bad=True)
    manifest = build(skip=True)
    images = choose(loader, skip_bad=skip_bad)
    assert images.loader == "pack"
    assert images.skipped == from_files.skipped == images.pack.skipped
    assert images.notes == from_files.notes
    lines = [f"{place}: {reason}" for place, reason in images.skipped.items()]
    assert lines == manifest.skipped


def test_a_run_goes_on_with_a_pack_that_leaves_out_the_same(data):
    hide_damage(TRAIN)
    recorded = {**choose("folder", skip_bad=True).skipped, "val/class_00/gone.jpg": "x"}
    build(skip=True)
    images = choose("auto", skipped=recorded)
    assert images.loader == "pack"
    assert images.skipped == recorded


@pytest.mark.parametrize("recorded", [{}, {TRAIN_PLACE: "", VAL_PLACE: ""}, {VAL_PLACE: ""}])
def test_a_run_does_not_go_on_with_a_pack_that_leaves_out_others(data, recorded):
    hide_damage(TRAIN)
    build(skip=True)
    with pytest.raises(DataError, match=r"leaves out other files of data/.*--loader folder"):
        choose("pack", skipped=recorded)
    images = choose("auto", skipped=recorded)
    assert images.loader == "folder"
    assert "leaves out other files" in images.notes[0]
    assert len(images.train) == 24 - (TRAIN_PLACE in recorded)


def test_a_manifest_that_does_not_name_all_that_was_left_out_is_damaged(data):
    break_in_half(TRAIN)
    build(skip=True)
    manifest = PACK / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"skipped": []}))
    with pytest.raises(
        DataError, match=r"damaged: .*manifest\.json: lists 0 skipped files, expected 1"
    ):
        choose("pack")


def test_a_pack_for_another_size_has_its_validation_files_scanned(data):
    build(pack_size=48, img_size=40)
    (PACK / "val_source.npy").unlink()  # else the damage would show
    stat = VAL.stat()
    hide_damage(VAL)
    VAL.write_bytes(VAL.read_bytes() + bytes(9))  # as before in length and time
    os.utime(VAL, ns=(0, stat.st_mtime_ns))
    images = choose("pack", skip_bad=True)
    assert list(images.skipped) == [VAL_PLACE]
    assert (len(images.train), len(images.val)) == (24, 8)


@pytest.mark.parametrize("loader", ["folder", "pack"])
def test_what_another_process_has_checked_is_not_checked_again(data, loader):
    build()
    broken = choose(loader)
    break_in_half(VAL)
    with pytest.raises(DataError):
        choose(loader)
    images = choose(loader, skipped={}, checked=True)
    assert images.loader == loader
    for ours, theirs in ((images.train, broken.train), (images.val, broken.val)):
        assert ours.files.tolist() == theirs.files.tolist()
