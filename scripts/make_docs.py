"""Writes what is generated from the recipe's schema: docs/recipe.md and recipes/recipe.schema.json.

    python scripts/make_docs.py

A test compares both with the schema, so neither is edited by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from finetune.recipe import Recipe, json_schema, keys

ROOT = Path(__file__).parent.parent


def recipe_page() -> str:
    """Writes a table of every key with its default and its meaning."""
    lines = [
        "# Every key of a recipe",
        "",
        "Made by `scripts/make_docs.py` from the schema. Unknown keys are errors. Paths are relative to the recipe's",
        "file; in `--set key=value` they are relative to the working folder.",
        "",
        "| key | default | |",
        "|---|---|---|",
    ]
    for key in keys():
        section, _, name = key.rpartition(".")
        model = Recipe.model_fields[section].annotation if section else Recipe
        field = model.model_fields[name]
        lines.append(f"| `{key}` | {default(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def default(field: Any) -> str:
    """Shows a field's default and, where there are few values, its choices."""
    if field.is_required():
        return "required" if field is not Recipe.model_fields["name"] else "the file's name"
    value = field.default
    shown = f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return shown + (f" of {', '.join(f'`{choice}`' for choice in choices)}" if choices else "")


def main() -> None:
    """Writes both files."""
    (ROOT / "docs" / "recipe.md").write_text(recipe_page())
    (ROOT / "recipes" / "recipe.schema.json").write_text(json.dumps(json_schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
