"""The list of all files that a run has saved, by SHA-256: a file not in it is damaged."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imgnet_mini.errors import CheckpointError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import write_text

Kind = Literal["run", "best"]
"""The state of a run, or the weights of its best epoch."""


class Entry(BaseModel):
    """One file that was saved; it may have been renamed since."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    kind: Kind
    step: int = Field(ge=0)
    epoch: int = Field(ge=0)
    time: str


class Manifest(BaseModel):
    """All files that a run has saved, the newest last; never shortened, so backups stay known."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[1]
    saved: tuple[Entry, ...] = Field(strict=False)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the manifest; None if the file does not exist.

        Raises:
            CheckpointError: the file cannot be read or is damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        except ValidationError as error:
            raise CheckpointError(f"{path} is damaged ({error.errors()[0]['msg']})") from error

    def find(self, sha256: str) -> Entry | None:
        """Return the last entry with this digest."""
        return next((entry for entry in reversed(self.saved) if entry.sha256 == sha256), None)

    def newest(self, kind: Kind) -> Entry | None:
        """Return the last entry of a kind."""
        return next((entry for entry in reversed(self.saved) if entry.kind == kind), None)

    def write_with(self, entry: Entry, path: Path) -> "Manifest":
        """Write and return the manifest with one more entry.

        Raises:
            WriteError: see `atomic_write`.
        """
        longer = self.model_copy(update={"saved": (*self.saved, entry)})
        write_text(path, longer.model_dump_json(indent=1) + "\n")
        return longer


EMPTY = Manifest(format=1, saved=())


def has_steps(paths: RunPaths) -> bool:
    """Return whether a run may have saved more than its state before the first training step."""
    if not paths.has_checkpoint():
        return False
    try:
        manifest = Manifest.read(paths.manifest)
    except CheckpointError:
        return True
    return manifest is None or any(entry.step > 0 for entry in manifest.saved)
