"""Files of labels: CSV files, and the ground truth of ImageNet's development kit."""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from imgnet_mini.data.layout import SPLIT_NAMES
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_line, join_names

GROUND_TRUTH: Final = "ILSVRC2012_validation_ground_truth.txt"
KNOWN_FILES: Final = ("LOC_val_solution.csv", GROUND_TRUTH, "val_annotations.txt")
"""Of ImageNet on Kaggle, of its development kit, and of Tiny ImageNet."""

_FILE_COLUMNS: Final = (
    *("file", "files", "filename", "filenames", "filepath", "filepaths", "path", "imagepath"),
    *("image", "images", "imageid", "imagename", "img", "imgname", "name", "id"),
)
_LABEL_COLUMNS: Final = (
    *("label", "labels", "labelname", "class", "classname", "category", "target", "species"),
    *("breed", "predictionstring", "classid", "labelid", "y"),
)
_SPLIT_COLUMNS: Final = ("split", "set", "subset", "dataset", "partition")
_WITH_BOXES: Final = "predictionstring"
"""Column of Kaggle whose first word is the class; a box follows."""


class Label(NamedTuple):
    """The class of an image file.

    split: `train`, `val`, another name, or empty if the file of labels does not tell.
    """

    file: str
    name: str
    split: str = ""


def read_labels(path: Path) -> list[Label]:
    """Read a file of labels.

    Raises:
        DataError: it cannot be read, its columns are not known, or a label cannot be a folder.
    """
    text = _read_text(path)
    is_ground_truth = re.fullmatch(r"(\s*\d+\s*\n?)+", text, re.ASCII) is not None
    rows = _read_ground_truth(path, text) if is_ground_truth else _read_csv(path, text)
    labels: dict[str, Label] = {}
    for line, label in rows:
        _check_class_name(label.name, f"{path}, line {line}")
        known = labels.setdefault(label.file, label)
        if known != label:
            raise DataError(
                f"{path}, line {line}: {escape_line(label.file)} is of {escape_line(label.name)} "
                f"here, and of {escape_line(known.name)} before: an image can have one class only"
            )
    if not labels:
        raise DataError(f"{path} holds no labels")
    return [*labels.values()]


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}): save it as UTF-8") from error


def _read_csv(path: Path, text: str) -> Iterator[tuple[int, Label]]:
    """Yield the labels of a CSV file, or of one with tabs or semicolons, and their lines."""
    first = text.partition("\n")[0]
    delimiter = max(",\t;", key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    if not rows:
        return
    columns, has_header = _find_columns(path, rows[0][1])
    for line, row in rows[has_header:]:
        if len(row) <= max(column for column in columns.values() if column is not None):
            raise DataError(f"{path}, line {line}: it has {len(row)} column(s), too few")
        cells = ["" if column is None else row[column].strip() for column in columns.values()]
        file, name, split = cells
        if has_header and _normalize(rows[0][1][columns["label"] or 0]) == _WITH_BOXES:
            name = name.partition(" ")[0]
        yield line, Label(file, name, _split_name(split))


def _find_columns(path: Path, first: Sequence[str]) -> tuple[dict[str, int | None], bool]:
    """Return the columns of file, label and split, and whether the first row names them."""
    names = [*map(_normalize, first)]
    file, label, split = (
        next((names.index(name) for name in known if name in names), None)
        for known in (_FILE_COLUMNS, _LABEL_COLUMNS, _SPLIT_COLUMNS)
    )
    if file is not None and label is None and len(names) == 2:
        label = 1 - file
    if file is not None and label is not None:
        return {"file": file, "label": label, "split": split}, True
    if len(names) > 1 and Path(first[0].strip()).suffix:  # no header: a file, and its label
        return {"file": 0, "label": 1, "split": None}, False
    raise DataError(
        f"{path}: no columns of files and labels among {join_names([*first])}: name them file and "
        "label in the first line"
    )


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _split_name(text: str) -> str:
    """Return `train`, or the name of another split, in lower case."""
    name = text.lower()
    return "train" if name in SPLIT_NAMES["train"] else name


def _read_ground_truth(path: Path, text: str) -> Iterator[tuple[int, Label]]:
    """Yield the labels of ImageNet's validation images, by the numbers of their files."""
    ids = _read_ids(path)
    for line, number in enumerate(text.split(), start=1):
        if int(number) not in ids:
            raise DataError(f"{path}, line {line}: {number} is no class of {path.parent}/meta.mat")
        yield line, Label(f"ILSVRC2012_val_{line:08d}", ids[int(number)])


def _read_ids(path: Path) -> dict[int, str]:
    """Return the ImageNet id of each class number of the development kit.

    The numbers are the kit's own, not positions among the sorted ids.
    """
    from scipy.io import loadmat  # noqa: PLC0415 - takes half a second
    from scipy.io.matlab import MatReadError  # noqa: PLC0415

    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise DataError(
            f"{path} numbers its classes as the development kit does, and {meta}, which tells "
            "their ImageNet ids, is not there: give the file in the folder data/ of "
            "ILSVRC2012_devkit_t12, or LOC_val_solution.csv of Kaggle"
        )
    try:
        synsets: Any = loadmat(meta, squeeze_me=True)["synsets"]
        return {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in synsets
            if row["num_children"] == 0
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, MatReadError) as error:
        raise DataError(f"{meta} is damaged, or not of the development kit ({error})") from error


def _check_class_name(name: str, place: str) -> None:
    """Check that a class can have a folder of its name, here and on other systems.

    Raises:
        DataError: it cannot.
    """
    reason = ""
    if not name:
        reason = "the label is empty"
    elif name.startswith("."):
        reason = "folders that begin with a dot are hidden"
    elif re.search(r'[/\\:*?"<>|]', name) or not name.isprintable():
        reason = 'a folder cannot have / \\ : * ? " < > | or control characters in its name'
    elif len(name.encode("utf-8", "surrogateescape")) > 255:
        reason = "the name is longer than 255 bytes"
    if reason:
        raise DataError(f"{place}: label {escape_line(repr(name))}: {reason}")


class LabeledFiles(NamedTuple):
    """Image files with labels, by path.

    missing: files of labels that are not there; unlabeled: image files without a label.
    """

    labels: dict[str, Label]
    missing: list[str]
    unlabeled: list[str]


def match_labels(labels: Iterable[Label], images: Sequence[str], path: Path) -> LabeledFiles:
    """Find the image file of each label, by its path, else its name, with or without its ending.

    images: paths with forward slashes; path: of the labels, for messages.

    Raises:
        DataError: a name is that of several files.
    """
    places: dict[str, list[str]] = {}
    for image in images:
        name = image.rpartition("/")[2]
        for key in {image, name, name.rpartition(".")[0] or name}:
            places.setdefault(key, []).append(image)
    found, missing = dict[str, Label](), list[str]()
    for label in labels:
        file = label.file.replace("\\", "/").removeprefix("./")
        place = _find_image(file, places, path)
        if place is None:
            missing.append(label.file)
        elif found.setdefault(place, label).name != label.name:
            raise DataError(f"{path}: {escape_line(place)} has two labels")
    return LabeledFiles(found, missing, [image for image in images if image not in found])


def _find_image(file: str, places: dict[str, list[str]], path: Path) -> str | None:
    name = file.rpartition("/")[2]
    candidates = places.get(file) or places.get(name) or []
    exact = [image for image in candidates if image == file]
    ends = [image for image in candidates if f"/{file}".endswith(f"/{image}")]
    inside = [image for image in candidates if f"/{image}".endswith(f"/{file}")]
    for matches in (exact, ends, inside, candidates):
        if len(matches) == 1:
            return matches[0]
    if len(candidates) > 1:
        raise DataError(
            f"{path}: {escape_line(file)} may be {join_names(candidates)}: write the path of the "
            "file into the table"
        )
    return None
