"""Data sets of Kaggle: downloaded with the package kagglehub, which is optional."""

import errno
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imgnet_mini.data.layout import is_split_folder
from imgnet_mini.errors import ConfigError, DataError, ImgnetMiniError, WriteError
from imgnet_mini.utils.atomic_file import free_bytes
from imgnet_mini.utils.console import format_bytes, print_lines

IMAGENET_MINI: Final = "imagenet-mini"
_ALIASES: Final = {IMAGENET_MINI: "ifigotin/imagenetmini-1000"}
_REFUSED: Final = (401, 403)
_MISSING: Final = 404
_AGAIN: Final = "Run the same command again to continue"


@dataclass(frozen=True)
class KaggleDataset:
    """A version of a data set on Kaggle; size: of its archive in bytes, 0 if unknown."""

    name: str
    version: int
    size: int

    @property
    def handle(self) -> str:
        """Name and version as kagglehub reads them."""
        return f"{self.name}/versions/{self.version}"


def parse_handle(text: str) -> tuple[str, int | None]:
    """Return owner and name of a data set, and its version if the text tells.

    Raises:
        ConfigError: the text is neither a handle nor an address of a data set.
    """
    handle = _ALIASES.get(text, text)
    handle = re.sub(r"^(https?://)?(www\.)?kaggle\.com/datasets/", "", handle).rstrip("/")
    match = re.fullmatch(r"([\w-]+/[\w-]+)(?:/versions/(\d+))?", handle, re.ASCII)
    if match is None:
        raise ConfigError(
            f"{text} is no data set of Kaggle: give OWNER/NAME as in its address, such as "
            f"{_ALIASES[IMAGENET_MINI]}, or {IMAGENET_MINI}"
        )
    return match[1], None if match[2] is None else int(match[2])


def find_dataset(name: str, version: int | None) -> KaggleDataset:
    """Ask Kaggle for the newest version of a data set, and for its size.

    Raises:
        ConfigError: the login is refused.
        DataError: there is no such data set, or Kaggle cannot be reached.
    """
    from kagglehub.clients import build_kaggle_client  # noqa: PLC0415
    from kagglehub.exceptions import handle_call  # noqa: PLC0415
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest  # noqa: PLC0415

    request = ApiGetDatasetRequest()
    request.owner_slug, request.dataset_slug = name.split("/")
    try:
        with _translate_errors(name), build_kaggle_client() as client:
            datasets = client.datasets.dataset_api_client
            found: Any = handle_call(lambda: datasets.get_dataset(request))
    except ValueError as error:  # of a file of credentials
        raise ConfigError(f"{error}: make a new API token at kaggle.com/settings") from error
    newest = int(found.current_version_number or 1)
    is_newest = version in (None, newest)
    return KaggleDataset(name, version or newest, int(found.total_bytes or 0) if is_newest else 0)


def check_space(dataset: KaggleDataset, staging: Path) -> None:
    """Check the free space for the archive and its content, which lie side by side for a while.

    Raises:
        WriteError: it is too small.
    """
    needed, free = 2 * dataset.size - _arrived_bytes(staging), free_bytes(staging)
    if needed > free:
        raise WriteError(
            f"{dataset.name} needs about {format_bytes(needed)}, twice its size while it is "
            f"unpacked, and the disk of {staging.parent.absolute()} has {format_bytes(free)} free: "
            "make room, or choose another disk with --data-root"
        )


def download(dataset: KaggleDataset, staging: Path) -> Path:
    """Download and unpack a data set; a transfer that is cut goes on where it was.

    staging: folder for it, which keeps an unfinished archive.

    Raises:
        ConfigError: the login is refused.
        DataError: the transfer was cut, or the archive is damaged.
        WriteError: the disk is full.
    """
    import kagglehub  # noqa: PLC0415

    before = -1
    while True:
        try:
            with _translate_errors(dataset.name), _cache_folder(staging):
                return Path(kagglehub.dataset_download(dataset.handle))
        except _CutError as error:
            done = _arrived_bytes(staging)
            if done <= before or done == 0:
                part = f" after {format_bytes(done)}" if done else ""
                raise DataError(f"{error}{part}. {_AGAIN}") from error
            print_lines(f"The transfer was cut after {format_bytes(done)}: continuing")
            before = done
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            for path in staging.rglob("*.archive"):
                path.unlink()
            raise DataError(
                f"the archive of {dataset.name} is damaged ({error}), and is removed: run the same "
                "command again"
            ) from error


def _arrived_bytes(staging: Path) -> int:
    """Return the size of an unfinished archive; 0 without one."""
    return sum(path.stat().st_size for path in staging.rglob("*.archive"))


class _CutError(DataError):
    """The connection to Kaggle failed."""


@contextmanager
def _cache_folder(folder: Path) -> Iterator[None]:
    """Let kagglehub keep its files in a folder: its `output_dir` cannot continue a transfer."""
    name = "KAGGLEHUB_CACHE"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    from kagglehub.exceptions import DataCorruptionError, UnauthenticatedError  # noqa: PLC0415
    from requests import HTTPError, JSONDecodeError, RequestException  # noqa: PLC0415

    try:
        yield
    except UnauthenticatedError as error:
        raise _refused_error(name, "no login was found") from error
    except DataCorruptionError as error:
        raise DataError(f"the archive of {name} arrived damaged. {_AGAIN}") from error
    except HTTPError as error:
        raise _status_error(
            name, 0 if error.response is None else error.response.status_code
        ) from error
    except JSONDecodeError as error:
        raise DataError(
            f"the answer for {name} is not one of Kaggle: a proxy, or the login page of a network, "
            "may have sent it"
        ) from error
    except RequestException as error:
        reason = f"Kaggle cannot be reached, or the connection was cut ({type(error).__name__})"
        raise _CutError(reason) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WriteError(
            f"the disk is full. What has arrived of {name} is kept: make room, and run the same "
            "command again to continue"
        ) from error


def _status_error(name: str, status: int) -> ImgnetMiniError:
    if status in _REFUSED:
        return _refused_error(name, f"status {status}")
    if status == _MISSING:
        return DataError(
            f"Kaggle has no data set {name}: compare it with the address of its page, "
            "kaggle.com/datasets/OWNER/NAME"
        )
    return DataError(f"Kaggle answers with status {status} for {name}: try again later")


def _refused_error(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"Kaggle refuses {name} ({reason}). If the name is right, log in: make an API token at "
        "kaggle.com/settings and set KAGGLE_API_TOKEN, or save it as ~/.kaggle/access_token. Some "
        "data sets ask for consent on their page first"
    )


def place(content: Path, dest: Path, staging: Path) -> None:
    """Bring the unpacked files to their folder, without outer folders that hold nothing else.

    Files that kagglehub found elsewhere, such as in a notebook on Kaggle, are linked.
    """
    content = _unwrap(content)
    dest.parent.mkdir(parents=True, exist_ok=True)
    if content.is_relative_to(staging):
        if dest.is_dir():
            dest.rmdir()  # it is empty
        content.rename(dest)
        shutil.rmtree(staging)
        return
    dest.mkdir(exist_ok=True)
    for path in content.iterdir():
        (dest / path.name).symlink_to(path.absolute())


def _unwrap(folder: Path) -> Path:
    """Return the innermost folder whose outer folders hold nothing else."""
    while True:
        inner = [*folder.iterdir()]
        if len(inner) != 1 or not inner[0].is_dir() or is_split_folder(inner[0]):
            return folder
        folder = inner[0]
