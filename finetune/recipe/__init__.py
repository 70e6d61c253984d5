"""Floor 2: the recipe, read without torch, every mistake told with its line and its cure."""

from finetune.recipe.evaluation import Evaluate, HarnessTask, Task
from finetune.recipe.gate import Rule, WrongRule, failed_rules, of_set, read_rule
from finetune.recipe.listing import json_schema, keys
from finetune.recipe.loading import RECIPES, dump, load, load_or_rows
from finetune.recipe.paths import is_folder
from finetune.recipe.schema import (
    FAMILIES,
    MOST_EXAMPLES,
    Card,
    Data,
    Family,
    Lora,
    Memory,
    Parallel,
    Publish,
    Recipe,
    Source,
    Train,
    override,
)
from finetune.recipe.section import Role

__all__ = [
    "FAMILIES",
    "MOST_EXAMPLES",
    "RECIPES",
    "Card",
    "Data",
    "Evaluate",
    "Family",
    "HarnessTask",
    "Lora",
    "Memory",
    "Parallel",
    "Publish",
    "Recipe",
    "Role",
    "Rule",
    "Source",
    "Task",
    "Train",
    "WrongRule",
    "dump",
    "failed_rules",
    "is_folder",
    "json_schema",
    "keys",
    "load",
    "load_or_rows",
    "of_set",
    "override",
    "read_rule",
]
