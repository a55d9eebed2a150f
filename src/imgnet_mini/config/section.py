"""The base class of the settings."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen settings; an unknown setting is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def in_use(self) -> dict[str, Any]:
        """Return the settings that have an effect beside the others, by name."""
        return self.model_dump()
