"""Floor 2: the recipe, read without torch, every mistake told with its line and its cure."""

from finetune.recipe.listing import json_schema, keys
from finetune.recipe.loading import dump, load, load_or_rows
from finetune.recipe.paths import is_folder
from finetune.recipe.schema import (
    FAMILIES,
    MOST_EXAMPLES,
    Data,
    Family,
    Lora,
    Memory,
    Parallel,
    Publish,
    Recipe,
    Role,
    Source,
    Train,
    override,
)

__all__ = [
    "FAMILIES",
    "MOST_EXAMPLES",
    "Data",
    "Family",
    "Lora",
    "Memory",
    "Parallel",
    "Publish",
    "Recipe",
    "Role",
    "Source",
    "Train",
    "dump",
    "is_folder",
    "json_schema",
    "keys",
    "load",
    "load_or_rows",
    "override",
]
