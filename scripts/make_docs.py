"""Writes what is generated: docs/recipe.md and recipes/recipe.schema.json from the schema, plans in recipes' heads.

    python scripts/make_docs.py

Tests compare them with the schema and with the plans of today, so none is edited by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from finetune.cli.plan_page import page
from finetune.data import count_rows
from finetune.hardware import Hardware, wished, with_network, with_nodes
from finetune.links import USUAL
from finetune.plan import Plan, make_plan
from finetune.recipe import Recipe, json_schema, keys, load
from finetune.shape import read_shape

ROOT = Path(__file__).parent.parent

PLANNED = re.compile(r"^#   finetune plan (\S+) (--gpu .*)\n((?:#     .*\n)*)", re.MULTILINE)
"""The command in a recipe's head, with the words after the recipe, and the lines under it that are generated."""

SHOWN = ("a step", "processes", "on the wire", "levers", "time")
"""Rows of the plan's page that a head repeats, after the verdict."""


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


def plan_of(file: Path) -> tuple[Plan, Hardware] | None:
    """Plans a recipe for the machine that the command in its head names; None if there is none."""
    told = PLANNED.search(file.read_text())
    if told is None:
        return None
    words = argparse.ArgumentParser()
    words.add_argument("--gpu")
    words.add_argument("--nodes", type=int, default=1)
    words.add_argument("--network", default=USUAL.name)
    asked = words.parse_args(told[2].split())
    hardware = with_nodes(wished(asked.gpu), asked.nodes)
    if asked.nodes > 1:
        hardware = with_network(hardware, asked.network)
    recipe = load(file)
    return make_plan(recipe, read_shape(recipe.base, None), hardware, count_rows(recipe)), hardware


def with_plan(file: Path) -> str:
    """Gives a recipe's text with the plan of today in its head, if a command stands there that asks for it."""
    text, planned = file.read_text(), plan_of(file)
    if planned is None:
        return text
    verdict, _, *rows = page(planned[0], count_rows(load(file)), ()).split("\n\nmemory")[0].splitlines()
    shown, label = [verdict], ""
    for row in rows:
        label = row[:13].strip() or label
        if label in SHOWN:
            shown.append(row)
    told = "".join(f"#     {row}\n" for row in shown)
    return PLANNED.sub(lambda found: f"#   finetune plan {found[1]} {found[2]}\n{told}", text)


def main() -> None:
    """Writes them."""
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        file.write_text(with_plan(file))
    (ROOT / "docs" / "recipe.md").write_text(recipe_page())
    (ROOT / "recipes" / "recipe.schema.json").write_text(json.dumps(json_schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
