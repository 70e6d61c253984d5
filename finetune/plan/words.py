"""Words of the form key=value that change a recipe, as data: to try them, and to tell them."""

from __future__ import annotations

from typing import Any

from finetune.recipe import FAMILIES, Recipe, override

Words = dict[str, Any]
"""Dotted keys of a recipe and their values, in the order in which they are told."""

OUR_BASE = "Qwen/Qwen3.6-27B"


def changed(recipe: Recipe, words: Words) -> Recipe:
    """Gives the recipe with other values for some keys."""
    update: Words = {}
    for key, value in words.items():
        section, _, name = key.rpartition(".")
        if section:
            update[section] = update.get(section, getattr(recipe, section)).model_copy(update={name: value})
        else:
            update[name] = value
    return recipe.model_copy(update=update)


def differing(recipe: Recipe, words: Words) -> Words:
    """Leaves of the words those that change something."""
    return {key: value for key, value in words.items() if value != value_of(recipe, key)}


def value_of(recipe: Recipe, key: str) -> Any:
    """Looks up what the recipe says for a dotted key."""
    section, _, name = key.rpartition(".")
    return getattr(getattr(recipe, section) if section else recipe, name)


def as_overrides(words: Words) -> str:
    """Writes the words as they are typed after a command: `--set key=value …`."""
    return " ".join(override(f"{key}={_shown(value)}") for key, value in words.items())


def to_dense(recipe: Recipe, base: str = OUR_BASE) -> Words:
    """Gives the words that lead to a dense base of ours, and leave nothing that only the base before knew.

    Where that one lay and its commit are not the other's, and a dense base has neither experts nor routers.
    """
    targets, spread = recipe.lora.targets, recipe.parallel.expert
    if set(targets) != set(FAMILIES):
        targets = tuple(family for family in targets if family != "experts") or ("attention",)
    words = {
        "base": base,
        "base_path": None,
        "revision": None,
        "lora.targets": targets,
        "lora.expert_rank": None,
        "lora.router": False,
        "train.router_aux_loss_coef": None,
        "parallel.expert": spread if spread == 1 else None,
    }
    return differing(recipe, words)


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
