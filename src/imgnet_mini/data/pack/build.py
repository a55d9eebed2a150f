"""The files of a pack in the making, which an interrupted build leaves in a state to go on from."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from imgnet_mini import __version__
from imgnet_mini.config.fields import available_cpus
from imgnet_mini.data.batches import prefetch_map, thread_pool
from imgnet_mini.data.folder import listed
from imgnet_mini.data.images import ImageError
from imgnet_mini.data.pack.format import (
    CLASSES,
    FORMAT,
    MANIFEST,
    SPLITS,
    PackManifest,
    index_dtype,
    split_file,
)
from imgnet_mini.data.pack.growing_array import GrowingArray, holds_rows
from imgnet_mini.data.pack.place import PROBLEMS, PROGRESS
from imgnet_mini.data.pack.plan import ImagePacker, PackedImage, PackPlan
from imgnet_mini.errors import DataError
from imgnet_mini.utils.atomic_file import atomic_write, write_text
from imgnet_mini.utils.console import escape_line

SAVE_SECONDS: Final = 10.0
"""How much work a kill may cost."""

OnImage = Callable[[str, int], None]
"""Called with a split and how many of its images are done; what it raises ends the build."""


class Progress(BaseModel):
    """`Whole` as it is noted in a file, with the key of its plan."""

    model_config = ConfigDict(frozen=True, strict=True)

    key: str
    rows: dict[str, NonNegativeInt]
    problems: list[str]
    suspect: list[str]
    histogram: list[list[int]]


class Whole(NamedTuple):
    """The images that are written whole.

    rows: file name to rows; histogram: (3, 256) of the training images, see `PackedImage`.
    """

    rows: dict[str, int]
    problems: list[str]
    suspect: list[str]
    histogram: NDArray[np.int64]


class PackBuilder:
    """Rows behind rows, and now and then a note of how many are safely there."""

    def __init__(self, plan: PackPlan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._row_dtype = index_dtype(max(plan.splits[split].files.itemsize for split in SPLITS))
        self._whole = self._start()
        self._files = ExitStack()
        self._arrays: dict[tuple[str, str], GrowingArray] = {}
        try:
            for split, what, path, layout in self._layout():
                array = GrowingArray(path, *layout, keep=self._whole.rows[path.name])
                self._arrays[split, what] = self._files.enter_context(closing(array))
        except BaseException:
            self._files.close()
            raise
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Close the files as they are."""
        self._files.close()

    def run(self, on_image: OnImage) -> None:
        """Pack what is left; whatever ends it early, what is done is kept."""
        with thread_pool(available_cpus()) as pool:
            try:
                for split in SPLITS:
                    self._run_split(split, pool, on_image)
            finally:
                self._save()

    def check_images(self, *, skip: bool) -> None:
        """End here if files are broken that may not be left out.

        Raises:
            DataError: names them, or classes that have nothing else.
        """
        problems = self._whole.problems
        if problems and not skip:
            path = self._folder / PROBLEMS
            write_text(path, "".join(f"{problem}\n" for problem in problems))
            raise DataError(
                f"{len(problems)} file(s) in {self._plan.data_root} cannot be decoded, all listed "
                f"in {path}:\n{listed(problems)}\n"
                "Replace or remove them, or leave them out with --skip-bad"
            )
        for split in SPLITS:
            images = self._plan.splits[split]
            self._arrays[split, "index"].finish()
            kept = np.load(split_file(self._folder, split, "index"))["target"]
            images.check_unchanged(kept)

    def finish(self) -> PackManifest:
        """Complete the files, the manifest last."""
        for array in self._arrays.values():
            array.finish()
        classes = [name.encode("utf-8", "surrogateescape") for name in self._plan.classes]
        with atomic_write(self._folder / CLASSES) as file:
            np.save(file, np.array(classes))
        manifest = self._manifest()
        write_text(self._folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def _layout(self) -> list[tuple[str, str, Path, tuple[np.dtype[Any], tuple[int, ...]]]]:
        """Split, part, file, and the type and shape of a row, of each array."""
        layout = []
        for split in SPLITS:
            side = self._plan.side(split)
            pixels: tuple[np.dtype[Any], tuple[int, ...]] = np.dtype(np.uint8), (side, side, 3)
            row: tuple[np.dtype[Any], tuple[int, ...]] = self._row_dtype, ()
            for what, kind in (("images", pixels), ("index", row), ("skipped", row)):
                layout.append((split, what, split_file(self._folder, split, what), kind))
        return layout

    def _start(self) -> Whole:
        """What an interrupted build of this plan has left, if its files are all there."""
        path = self._folder / PROGRESS
        try:
            progress = Progress.model_validate_json(path.read_bytes())
            if progress.key == self._plan.key and all(
                holds_rows(file, *layout, progress.rows[file.name])
                for _, _, file, layout in self._layout()
            ):
                histogram = np.array(progress.histogram, np.int64).reshape(3, 256)
                return Whole(progress.rows, progress.problems, progress.suspect, histogram)
        except (OSError, KeyError, ValueError):
            pass
        # Before any file is touched: the note would count what is no longer there.
        path.unlink(missing_ok=True)
        rows = {file.name: 0 for _, _, file, _ in self._layout()}
        return Whole(rows, [], [], np.zeros((3, 256), np.int64))

    def _run_split(self, split: str, pool: ThreadPoolExecutor, on_image: OnImage) -> None:
        images = self._plan.splits[split]
        pack = ImagePacker(self._plan, split)

        def attempt(index: int) -> PackedImage | ImageError:
            try:
                return pack(images.path(index))
            except ImageError as error:
                return error

        first = self._arrays[split, "index"].rows + self._arrays[split, "skipped"].rows
        indices = range(first, len(images))
        with closing(prefetch_map(attempt, indices, pool, ahead=2 * available_cpus())) as results:
            for index, result in zip(indices, results, strict=True):
                self._add(split, index, result)
                if time.monotonic() - self._saved_at > SAVE_SECONDS:
                    self._save()
                on_image(split, index + 1)

    def _add(self, split: str, index: int, result: PackedImage | ImageError) -> None:
        """Write one image's rows; only then, at once, does it count."""
        images, stamps = self._plan.splits[split], self._plan.stamps[split][index]
        width, height = (0, 0) if isinstance(result, ImageError) else (result.width, result.height)
        known = (images.files[index], images.targets[index], width, height, *stamps)
        row = np.array([known], self._row_dtype)
        place = images.place(index)
        whole = self._whole
        if isinstance(result, ImageError):
            self._arrays[split, "skipped"].append(row)
            problem = escape_line(f"{place}: {result.reason}")
            whole = whole._replace(problems=[*whole.problems, problem])
        else:
            self._arrays[split, "images"].append(result.square[None])
            self._arrays[split, "index"].append(row)
            if result.warning:
                suspect = escape_line(f"{place}: {result.warning}")
                whole = whole._replace(suspect=[*whole.suspect, suspect])
            if split == "train":
                whole = whole._replace(histogram=whole.histogram + result.histogram)
        self._whole = whole._replace(rows=self._rows())

    def _rows(self) -> dict[str, int]:
        return {
            split_file(self._folder, *name).name: array.rows for name, array in self._arrays.items()
        }

    def _save(self) -> None:
        """Note what is done: first the rows reach the disk, then the note that they are there."""
        for array in self._arrays.values():
            array.flush()
        whole = self._whole
        progress = Progress(
            key=self._plan.key,
            rows=whole.rows,
            problems=whole.problems,
            suspect=whole.suspect,
            histogram=whole.histogram.tolist(),
        )
        write_text(self._folder / PROGRESS, progress.model_dump_json())
        self._saved_at = time.monotonic()

    def _manifest(self) -> PackManifest:
        values = np.arange(256)
        histogram = self._whole.histogram
        mean = histogram @ values / histogram.sum(1)
        variance = histogram @ values**2 / histogram.sum(1) - mean**2
        return PackManifest(
            format=FORMAT,
            imgnet_mini=__version__,
            pillow=PIL.__version__,
            torch=str(torch.__version__),
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            pack_size=self._plan.pack_size,
            img_size=self._plan.img_size,
            eval_size=self._plan.eval_size,
            images={split: self._arrays[split, "index"].rows for split in SPLITS},
            mean=mean.round(3).tolist(),
            std=np.sqrt(variance).round(3).tolist(),
            id=self._plan.id,
            skipped=self._whole.problems,
            suspect=self._whole.suspect,
        )
