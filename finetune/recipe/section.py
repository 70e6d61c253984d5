"""What the sections of a recipe are made of: frozen groups of wishes, paths and columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Role = Literal["messages", "prompt", "completion", "system", "reasoning", "tools", "text", "each"]
Column = Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]

ROLES: tuple[Role, ...] = get_args(Role)


class Section(BaseModel):
    """A frozen group of wishes; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _named(path: Path) -> Path:
    """Refuses the path that an empty text becomes."""
    if path == Path():
        raise PydanticCustomError("string_too_short", "a path must not be empty")
    return path


File = Annotated[Path, AfterValidator(_named)]


def _enough(columns: dict[Role, Column]) -> dict[Role, Column]:
    """Refuses columns from which no example can be made."""
    if not (columns.keys() & {"messages", "text"} or {"prompt", "completion"} <= columns.keys()):
        raise PydanticCustomError("columns", "it names messages, or text, or prompt and completion")
    return columns


Columns = Annotated[dict[Role, Column], AfterValidator(_enough)]
