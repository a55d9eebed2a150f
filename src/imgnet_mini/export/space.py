"""A folder for a Hugging Face Space: a web page that classifies images, without PyTorch."""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.data.images import ImageError, read_image
from imgnet_mini.export.formats import FORMATS, Description
from imgnet_mini.export.parity import ParityResult
from imgnet_mini.export.writer import Exportable, write_checked
from imgnet_mini.reporting.readme.template import make_environment
from imgnet_mini.utils.atomic_file import atomic_folder, write_text

MODEL: Final = "model.onnx"

_FILES: Final = (
    *("export/space_files/app.py", "export/space_files/classifier.py", "data/pixels.py"),
    "data/fit.py",
    "export/space_files/requirements.txt",
)
_EXAMPLE_COUNT: Final = 6
_EXAMPLE_SIDE: Final = 640
"""Pixels; larger examples would only slow the page down."""


def write_space_folder(
    folder: Path, model: Exportable, *, title: str, images: Sequence[Path], decoding: Decoding
) -> tuple[ParityResult, int]:
    """Write a folder, compare its model with the network, and return the number of examples too.

    Other files in an existing folder stay.

    images: to choose the examples from.

    Raises:
        ExportError: the exported model does not match; the folder is unchanged.
        WriteError: a file cannot be written.
    """
    with atomic_folder(folder) as temporary:
        parity = write_checked(FORMATS["onnx"], model, temporary / MODEL)
        _write_app(temporary, model.description, title)
        examples = _write_examples(temporary / "examples", images, decoding)
    return parity, examples


def _write_app(folder: Path, description: Description, title: str) -> None:
    package = files("imgnet_mini")
    texts = {Path(name).name: package.joinpath(name).read_text("utf-8") for name in _FILES}
    gradio = re.search(r"^gradio==(\S+)$", texts["requirements.txt"], re.MULTILINE)
    if gradio is None:
        raise TypeError("requirements.txt pins no gradio")
    texts["README.md"] = (
        make_environment(None)
        .get_template("space.md.j2")
        .render(title=title, gradio=gradio[1], **description)
        + "\n"
    )
    for name, text in texts.items():
        write_text(folder / name, _import_from_folder(text) if name.endswith(".py") else text)


def _write_examples(folder: Path, images: Sequence[Path], decoding: Decoding) -> int:
    """Write some images as small JPEG files without metadata, such as the place; return how many.

    Images that cannot be read are skipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = max(1, len(images) // _EXAMPLE_COUNT)
    count = 0
    for path in images[step // 2 :: step][:_EXAMPLE_COUNT]:
        try:
            image = read_image(path, decoding)
        except ImageError:
            continue
        image.thumbnail((_EXAMPLE_SIDE, _EXAMPLE_SIDE))
        count += 1
        image.save(folder / f"{count}.jpg", quality=92)
    return count


def _import_from_folder(source: str) -> str:
    """Return a source that imports from files in its folder in place of this package."""
    return re.sub(r"^from imgnet_mini\.(?:\w+\.)*(?=\w+ import)", "from ", source, flags=re.M)
