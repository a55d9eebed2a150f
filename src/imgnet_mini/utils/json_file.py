"""JSON files whose content is a pydantic model that writer and readers share."""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from imgnet_mini.errors import DataError
from imgnet_mini.utils.atomic_file import write_text

Text = InstanceOf[str]
"""Also a name whose bytes are not UTF-8, which pydantic's own `str` refuses."""
Count = Annotated[int, Field(ge=0, lt=2**63)]


class JsonModel(BaseModel):
    """One JSON file, or an object in one. Types are strict; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    cure: ClassVar[str] = "remove it or make it again"
    """Advice at the end of every error about a damaged file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            DataError: the file cannot be read, is not JSON, or a field is missing or has another
                type.
        """
        try:
            return cls.model_validate(json.loads(path.read_bytes()))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            raise DataError(f"{path}: {_explain(error)}; {cls.cure}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not a JSON file ({error}); {cls.cure}") from error

    @classmethod
    def read_if_exists(cls, path: Path) -> Self | None:
        """Read a file; None if it does not exist.

        Raises:
            DataError: see `read`.
        """
        return cls.read(path) if path.exists() else None

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.model_dump(), indent=2) + "\n"

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            WriteError: the file cannot be written.
        """
        write_text(path, self.to_json())


def _explain(error: ValidationError) -> str:
    """Return the first problem, such as `top1: Input should be a valid number (got 'x')`."""
    problem = error.errors()[0]
    if not problem["loc"]:
        return "it should hold one JSON object"
    field = ".".join(map(str, problem["loc"]))
    given = "" if problem["type"] == "missing" else f" (got {_shorten(problem['input'])})"
    return f"{field}: {problem['msg']}{given}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
