"""The registry of batch augmentations and their random streams."""

from itertools import combinations

import numpy as np
import pytest
import torch

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.augment import registry
from imgnet_mini.data.augment.registry import (
    AUGMENTATIONS,
    Augmentation,
    BatchAugment,
    Stage,
    enabled_augmentations,
)
from imgnet_mini.data.batches import Batch, BatchRandom
from imgnet_mini.data.rng import CROP_STREAM, RandomStream, hash_seed, uniforms
from imgnet_mini.data.sampler import BatchKey

CPU = torch.device("cpu")
KEY = BatchKey(2, np.array([4, 9, 30, 7]), 40)
ON = {
    "trivial_augment": {"trivial_augment": True},
    "random_affine_erase": {"use_class_style_aug": True},
    "random_erasing": {"random_erasing": 0.5},
    "mixup_cutmix": {"mixup": 0.4, "cutmix": 1.0},
}


def test_each_augmentation_has_a_name_of_its_own_and_settings_that_exist():
    assert [augmentation.name for augmentation in AUGMENTATIONS] == list(ON)
    settings = [name for augmentation in AUGMENTATIONS for name in augmentation.settings]
    assert len(set(settings)) == len(settings)
    assert set(settings) <= DataConfig.model_fields.keys()


def test_none_is_enabled_by_default():
    assert enabled_augmentations(DataConfig()) == []


@pytest.mark.parametrize("name", ON)
def test_settings_enable_their_augmentation_alone(name):
    data = DataConfig(**ON[name])
    (augmentation,) = enabled_augmentations(data)
    assert augmentation.name == name
    assert augmentation.flags(DataConfig()) == []


def test_flags_are_those_that_a_user_types():
    flags = {a.name: a.flags(DataConfig(**ON[a.name])) for a in AUGMENTATIONS}
    assert flags["random_affine_erase"] == ["--use-class-style-aug"]
    assert flags["mixup_cutmix"] == ["--mixup 0.4", "--cutmix 1"]


def test_the_streams_of_released_augmentations_never_change():
    """Else a run that was saved by an earlier version would resume with other draws."""
    expected = {
        "trivial_augment": RandomStream(key=(2,)),
        "random_affine_erase": RandomStream(skip=23),
        "random_erasing": RandomStream(skip=33),
        "mixup_cutmix": RandomStream(key=(1,)),
    }
    assert {augmentation.name: augmentation.stream for augmentation in AUGMENTATIONS} == expected


def test_a_named_stream_is_the_generator_seeded_with_the_hash_of_the_name():
    stream = RandomStream.named("solarize")
    assert stream == RandomStream.named("solarize") != RandomStream.named("gray")
    ours = uniforms(5, 2, KEY.indices, 3, stream=stream)
    for index, row in zip(KEY.indices.tolist(), ours, strict=True):
        # The outputs of splitmix64 that follow the seed are those that follow it without a key.
        seed, bits = hash_seed(5, 2, index, *stream.key), []
        for step in range(1, 4):
            state = (seed + step * 0x9E3779B97F4A7C15) % 2**64
            state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
            bits.append(state ^ (state >> 31))
        assert row.tolist() == [(number >> 11) / 2**53 for number in bits]


def numbers_read(name, monkeypatch):
    """The uniform numbers, and seeds of torch's generator, that an augmentation reads."""
    read = set()
    (augmentation,) = (a for a in AUGMENTATIONS if a.name == name)

    class Recorder(BatchRandom):
        def uniforms(self, count):
            u = super().uniforms(count)
            read.update(u.ravel().tolist())
            return u

        def seeded(self, position):
            read.add(hash_seed(5, 2, int(KEY.indices[position]), *self.stream.key))
            return super().seeded(position)

    monkeypatch.setattr(registry, "BatchRandom", Recorder)
    augment(DataConfig(**ON[name]))
    assert augmentation.stream != CROP_STREAM
    return read


def augment(data):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 40, 40), generator=generator, dtype=torch.uint8)
    before = images.clone()
    found = BatchAugment(data, classes=3, seed=5, device=CPU)(
        Batch(images, torch.tensor([0, 2, 1, 0]), KEY)
    )
    assert torch.equal(images, before)
    return found


def test_no_two_augmentations_read_the_same_random_numbers(monkeypatch):
    read = {name: numbers_read(name, monkeypatch) for name in ON}
    read["crop"] = set(uniforms(5, 2, KEY.indices, 23).ravel().tolist())
    for one, other in combinations(read, 2):
        assert read[one]
        assert not read[one] & read[other], (one, other)


def invert(images, targets, random):
    """A toy: invert the images whose random number is below 1/2."""
    chosen = torch.from_numpy(random.uniforms(1)[:, 0] < 0.5).view(-1, 1, 1, 1)
    return torch.where(chosen, 255 - images, images), targets


@pytest.mark.parametrize("place", [0, 2, 4])
def test_adding_an_augmentation_changes_no_draw_of_another(monkeypatch, place):
    everything = DataConfig(**{key: value for on in ON.values() for key, value in on.items()})
    images, targets = augment(everything)

    def keep(images, targets, random):
        invert(images, targets, random)  # reads its numbers
        with random.seeded(0):
            torch.rand(7)
        return images, targets

    toy = Augmentation("toy", ("flip",), Stage.BYTES, lambda _: keep)
    entries = (*AUGMENTATIONS[:place], toy, *AUGMENTATIONS[place:])
    monkeypatch.setattr(registry, "AUGMENTATIONS", entries)
    assert all(map(torch.equal, augment(everything), (images, targets)))


def test_a_new_entry_is_applied_where_its_setting_is_on(monkeypatch):
    toy = Augmentation("toy", ("flip",), Stage.BYTES, lambda _: invert)
    monkeypatch.setattr(registry, "AUGMENTATIONS", (toy,))
    plain, _ = augment(DataConfig(flip=False))
    changed, _ = augment(DataConfig(flip=True))
    u = uniforms(5, 2, KEY.indices, 1, stream=RandomStream.named("toy"))[:, 0]
    assert (changed != plain).flatten(1).any(1).tolist() == (u < 0.5).tolist()
    assert 0 < (u < 0.5).sum() < len(u)
