"""JSON objects written by other commands, read with their types checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgnet_mini.errors import DataError


@dataclass(frozen=True)
class JsonFile:
    """The values of one JSON object; an absent or null one reads as None.

    Every method raises a DataError that names the file where a value has another type.
    """

    path: Path
    values: dict[str, Any]

    def text(self, key: str) -> str | None:
        """A string."""
        return self._typed(key, (str,), "a text")  # type: ignore[no-any-return]

    def number(self, key: str) -> float | None:
        """A number of either kind."""
        value = self._typed(key, (int, float), "a number")
        return None if value is None else float(value)

    def count(self, key: str) -> int | None:
        """A whole number."""
        return self._typed(key, (int,), "a whole number")  # type: ignore[no-any-return]

    def flag(self, key: str) -> bool:
        """True or false; false where absent."""
        return self.values.get(key) is True

    def items(self, key: str) -> list[Any]:
        """A list; empty where absent."""
        return self._typed(key, (list,), "a list") or []

    def table(self, key: str) -> "JsonFile":
        """An object inside this one; empty where absent."""
        return JsonFile(self.path, self._typed(key, (dict,), "an object") or {})

    def rows(self, key: str) -> list["JsonFile"]:
        """A list of objects; empty where absent."""
        rows = self.items(key)
        if not all(isinstance(row, dict) for row in rows):
            raise self._wrong(key, "a list of objects")
        return [JsonFile(self.path, row) for row in rows]

    def _typed(self, key: str, types: tuple[type, ...], what: str) -> Any:
        value = self.values.get(key)
        if value is None:
            return None
        too_large = isinstance(value, int) and abs(value) >= 2**63
        if not isinstance(value, types) or isinstance(value, bool) or too_large:
            raise self._wrong(key, what)
        return value

    def _wrong(self, key: str, what: str) -> DataError:
        value = repr(self.values[key])[:60]
        return DataError(f"{self.path}: {key!r} should be {what}, not {value}")


def read_json(path: Path) -> JsonFile:
    """Read a file that holds one JSON object.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not a JSON file ({error}); remove it or make it again"
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path} does not hold a JSON object; remove it or make it again")
    return JsonFile(path, values)


def read_json_if_there(path: Path) -> JsonFile:
    """The same, for a file that may be missing: then it is empty.

    Raises:
        DataError: see `read_json`.
    """
    return read_json(path) if path.exists() else JsonFile(path, {})
