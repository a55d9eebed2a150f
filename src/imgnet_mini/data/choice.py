"""Which images a command works on: the files themselves, or a pack of them."""

from dataclasses import dataclass

from imgnet_mini.data.folder import ImageFolder, find_splits, refuse_broken_images
from imgnet_mini.data.pack.format import NoPackError, Pack, PackedSplit, open_pack
from imgnet_mini.errors import DataError
from imgnet_mini.sections import DataConfig, RunSection


@dataclass(frozen=True)
class Images:
    """The two splits, and the pack they are read from, if any; `notes` say what to know of it."""

    train: ImageFolder
    val: ImageFolder
    pack: Pack | None = None
    notes: tuple[str, ...] = ()

    @property
    def loader(self) -> str:
        """What `--loader` would name it: `folder` or `pack`."""
        return "folder" if self.pack is None else "pack"

    def packed_val(self, img_size: int) -> PackedSplit | None:
        """The validation images as packed, where they were packed for this size."""
        fits = self.pack is not None and self.pack.manifest.img_size == img_size
        return self.pack.val if self.pack is not None and fits else None


def choose_images(run: RunSection, data: DataConfig, *, training: bool = True) -> Images:
    """Find the images, take the pack where it is wanted, and check the files that will be read.

    training: whether the training images will be read at all.

    Raises:
        DataError: the folders cannot be used, the pack that was asked for cannot, or files are
            broken.
    """
    train, val = find_splits(run.data_root)
    images = Images(train, val)
    if data.loader == "pack":
        images = _packed(run, data, train, val)
    elif data.loader == "auto":
        try:
            images = _packed(run, data, train, val)
        except NoPackError as error:
            if run.pack_dir is not None:
                images = Images(train, val, notes=(f"Note: {error}",))
        except DataError as error:
            images = Images(
                train, val, notes=(f"Note: {error}. Until then, the files are decoded",)
            )
    if training and images.pack is None:
        refuse_broken_images(images.train, images.val)
    elif images.packed_val(data.img_size) is None:
        refuse_broken_images(images.val)
    return images


def _packed(run: RunSection, data: DataConfig, train: ImageFolder, val: ImageFolder) -> Images:
    pack = open_pack(run.pack, train, val)
    if data.img_size > pack.manifest.img_size:
        raise DataError(
            f"the pack in {run.pack} is for --img-size {pack.manifest.img_size} or less; make it "
            f"anew with imgnet-mini prepare --img-size {data.img_size}"
        )
    return Images(pack.train.images, pack.val.images, pack)
