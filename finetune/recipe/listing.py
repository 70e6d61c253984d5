"""Lists what a recipe may hold: its keys, its sections, and the JSON Schema that editors read."""

from __future__ import annotations

from typing import Any

from finetune.recipe.schema import Recipe
from finetune.recipe.section import Section


def keys(section: type[Section] = Recipe, prefix: str = "") -> list[str]:
    """Lists every dotted key that a recipe may hold, in the order of the schema."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def sections() -> list[str]:
    """Lists the names of the sections, in the order of the schema."""
    kinds = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return [name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)]


def json_schema() -> dict[str, Any]:
    """Gives the JSON Schema of a recipe's file, for editors; there the name may be left out."""
    told = Recipe.model_json_schema()
    told["required"].remove("name")
    return told
