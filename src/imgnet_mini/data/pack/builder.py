"""Builder of a pack: appends rows to its arrays and saves its progress, to resume from."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PlainSerializer, PlainValidator

from imgnet_mini import __version__
from imgnet_mini.data.batches import decode_all
from imgnet_mini.data.images import ImageError
from imgnet_mini.data.pack.arrays import ArraySpec, GrowingArray
from imgnet_mini.data.pack.contents import SOURCE_DTYPE, find_changed_contents
from imgnet_mini.data.pack.format import (
    CLASSES,
    FORMAT,
    MANIFEST,
    PROBLEMS,
    PROGRESS,
    SPLITS,
    PackManifest,
    index_dtype,
    split_file,
)
from imgnet_mini.data.pack.plan import ImagePacker, PackedImage, PackPlan
from imgnet_mini.errors import DataError
from imgnet_mini.utils.atomic_file import atomic_write, write_text
from imgnet_mini.utils.console import escape_line, list_lines

SAVE_SECONDS: Final = 10.0
"""Work that a kill may cost."""

OnImage = Callable[[str, int], None]
"""Called with a split and the number of its images done; an exception ends the build."""


class Progress(BaseModel):
    """Rows that are written completely, and findings about their images.

    key: `PackPlan.key`.
    rows: file name to number of rows.
    histogram: (3, 256) of the packed training images, see `PackedImage`.
    """

    model_config = ConfigDict(frozen=True, strict=True, arbitrary_types_allowed=True)

    key: str
    rows: dict[str, NonNegativeInt]
    problems: list[str]
    suspect: list[str]
    histogram: Annotated[
        NDArray[np.int64],
        PlainValidator(lambda counts: np.array(counts, np.int64).reshape(3, 256)),
        PlainSerializer(np.ndarray.tolist),
    ]


class PackBuilder:
    """Appends images to the arrays in a folder; continues an interrupted build of the same plan.

    Progress is saved every `SAVE_SECONDS`, and when the build ends early.
    """

    def __init__(self, plan: PackPlan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._row_dtype = index_dtype(max(plan.splits[split].files.itemsize for split in SPLITS))
        specs = self._array_specs()
        self._progress = self._load_progress(specs)
        self._arrays = dict[tuple[str, str], GrowingArray]()
        with ExitStack() as files:  # closes those that were opened if one cannot be
            for key, spec in specs.items():
                array = GrowingArray(spec, keep=self._progress.rows[spec.path.name])
                self._arrays[key] = files.enter_context(closing(array))
            self._files = files.pop_all()
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Close the files; an unfinished build can be continued."""
        self._files.close()

    def run(self, on_image: OnImage) -> None:
        """Pack the remaining images. Progress is saved if this ends early."""
        try:
            for split in SPLITS:
                self._run_split(split, on_image)
        finally:
            self._save()

    def check_images(self, *, skip: bool) -> None:
        """Refuse files that cannot be decoded, or with `skip` only classes without any other file.

        Raises:
            DataError: names the files or the classes.
        """
        problems, splits = self._progress.problems, self._plan.splits
        if problems and not skip:
            path = self._folder / PROBLEMS
            write_text(path, "".join(f"{problem}\n" for problem in problems))
            raise DataError(
                f"{len(problems)} file(s) in {splits['train'].data_root} cannot be decoded, all "
                f"listed in {path}:\n{list_lines(problems)}\n"
                "Replace or remove them, or leave them out with --skip-bad"
            )
        for split in SPLITS:
            self._arrays[split, "index"].finish()
            kept = np.load(split_file(self._folder, split, "index"))["target"]
            splits[split].check_no_class_lost(kept)

    def finish(self) -> PackManifest:
        """Complete the files; write the manifest last."""
        for array in self._arrays.values():
            array.finish()
        names = self._plan.splits["train"].classes  # equal in both splits
        classes = [name.encode("utf-8", "surrogateescape") for name in names]
        with atomic_write(self._folder / CLASSES) as file:
            np.save(file, np.array(classes))
        manifest = self._manifest()
        write_text(self._folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def _array_specs(self) -> dict[tuple[str, str], ArraySpec]:
        """Return the arrays by split and content."""
        specs = {}
        for split in SPLITS:
            side = self._plan.side(split)
            for content, dtype, row_shape in (
                ("images", np.dtype(np.uint8), (side, side, 3)),
                ("index", self._row_dtype, ()),
                ("source", SOURCE_DTYPE, ()),
                ("skipped", self._row_dtype, ()),
            ):
                path = split_file(self._folder, split, content)
                specs[split, content] = ArraySpec(path, dtype, row_shape)
        return specs

    def _load_progress(self, specs: dict[tuple[str, str], ArraySpec]) -> Progress:
        """Return the progress of an interrupted build of this plan, if its files are complete."""
        path = self._folder / PROGRESS
        with suppress(OSError, KeyError, ValueError, TypeError):
            progress = Progress.model_validate_json(path.read_bytes())
            if (
                progress.key == self._plan.key
                and all(spec.holds_rows(progress.rows[spec.path.name]) for spec in specs.values())
                and not any(self._contents_changed(split, specs, progress) for split in SPLITS)
            ):
                return progress
        # Before any array is touched: the old progress would count rows that are gone.
        path.unlink(missing_ok=True)
        return Progress(
            key=self._plan.key,
            rows={spec.path.name: 0 for spec in specs.values()},
            problems=[],
            suspect=[],
            histogram=np.zeros((3, 256), np.int64),
        )

    def _contents_changed(
        self, split: str, specs: dict[tuple[str, str], ArraySpec], progress: Progress
    ) -> bool:
        """Return whether source files of packed images have other contents now."""
        index, source = (
            spec.read(progress.rows[spec.path.name])
            for spec in (specs[split, "index"], specs[split, "source"])
        )
        images = self._plan.splits[split]
        packed = images.select(np.isin(images.files, index["file"]))  # in the order of the rows
        return bool(find_changed_contents(packed, source))

    def _run_split(self, split: str, on_image: OnImage) -> None:
        images = self._plan.splits[split]
        first = self._arrays[split, "index"].rows + self._arrays[split, "skipped"].rows
        indices = range(first, len(images))
        packer = ImagePacker(self._plan, split)
        with closing(decode_all(packer, map(images.path, indices))) as results:
            for index, result in zip(indices, results, strict=True):
                self._add(split, index, result)
                if time.monotonic() - self._saved_at > SAVE_SECONDS:
                    self._save()
                on_image(split, index + 1)

    def _add(self, split: str, index: int, result: PackedImage | ImageError) -> None:
        """Write the rows of one image, then count them in one assignment: a signal may come."""
        images = self._plan.splits[split]
        *stamps, ctime_ns = self._plan.stamps[split][index]
        width, height = (0, 0) if isinstance(result, ImageError) else (result.width, result.height)
        values = (images.files[index], images.targets[index], width, height, *stamps)
        row = np.array([values], self._row_dtype)
        name = images.path_in_root(index)
        changes: dict[str, Any] = {}
        if isinstance(result, ImageError):
            self._arrays[split, "skipped"].append(row)
            problem = escape_line(f"{name}: {result.reason}")
            changes["problems"] = [*self._progress.problems, problem]
        else:
            self._arrays[split, "images"].append(result.square[None])
            self._arrays[split, "index"].append(row)
            source = np.array([(result.digest, ctime_ns)], SOURCE_DTYPE)
            self._arrays[split, "source"].append(source)
            if result.warning:
                suspect = escape_line(f"{name}: {result.warning}")
                changes["suspect"] = [*self._progress.suspect, suspect]
            if split == "train":
                changes["histogram"] = self._progress.histogram + result.histogram
        changes["rows"] = {array.spec.path.name: array.rows for array in self._arrays.values()}
        self._progress = self._progress.model_copy(update=changes)

    def _save(self) -> None:
        """Flush the rows to the disk, then save their number."""
        for array in self._arrays.values():
            array.flush()
        write_text(self._folder / PROGRESS, self._progress.model_dump_json())
        self._saved_at = time.monotonic()

    def _manifest(self) -> PackManifest:
        values = np.arange(256)
        histogram = self._progress.histogram
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
            decoding=self._plan.decoding,
            images={split: self._arrays[split, "index"].rows for split in SPLITS},
            mean=mean.round(3).tolist(),
            std=np.sqrt(variance).round(3).tolist(),
            id=self._plan.id,
            skipped=self._progress.problems,
            suspect=self._progress.suspect,
        )
