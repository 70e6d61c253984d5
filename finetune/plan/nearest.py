"""Where a recipe does not fit: the recipes nearest to it that do, found by trying them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from finetune.levers import POSITIONS
from finetune.recipe import Recipe, override
from finetune.shape import ModelShape, read_shape

STEP = 256
"""Tokens to whose multiple a proposed length is rounded down."""

SHORTEST = 512
"""Tokens under which a length is not proposed: few examples of a trade fit."""

SMALLER_BASES = ("Qwen/Qwen3.6-27B", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-2B", "Qwen/Qwen3.5-0.8B")

FEWER_TARGETS = (("linear_attention", "attention"), ("attention",))

MOST_PROPOSALS = 3

Fits = Callable[[Recipe, ModelShape], bool]
Words = dict[str, Any]


def nearest(recipe: Recipe, shape: ModelShape, length: int, fits: Fits) -> tuple[str, ...]:
    """Finds recipes that fit, each a few words away from the given one.

    Args:
        recipe: which does not fit.
        shape: of its base.
        length: tokens of its longest example.
        fits: tells whether a recipe fits on a base.

    Returns:
        At most three, the nearest first, each as `--set key=value …`.
    """
    found: list[Words] = []
    for change in _changes(recipe, shape, length, fits):
        words = {key: value for key, value in change.items() if value != _value(recipe, key)}
        if any(smaller.items() <= words.items() for smaller in found):
            continue  # a part of it is enough
        base = words.get("base")
        if fits(changed(recipe, words), read_shape(base, None) if base else shape):
            found.append(words)
        if len(found) == MOST_PROPOSALS:
            break
    return tuple(" ".join(override(f"{key}={_shown(value)}") for key, value in words.items()) for words in found)


def changed(recipe: Recipe, words: Words) -> Recipe:
    """Gives the recipe with other values for some keys."""
    update: dict[str, Any] = {}
    for key, value in words.items():
        section, _, name = key.rpartition(".")
        if section:
            update[section] = update.get(section, getattr(recipe, section)).model_copy(update={name: value})
        else:
            update[name] = value
    return recipe.model_copy(update=update)


def _changes(recipe: Recipe, shape: ModelShape, length: int, fits: Fits) -> Iterator[Words]:
    """Yields changes to try, the smallest first: levers let go, shorter examples, a smaller adapter, another base."""
    methods = ("qlora",) if recipe.method == "lora" else ("lora", "qlora") if recipe.method == "full" else ()
    forced: Words = {f"memory.{name}": "auto" for name in POSITIONS if getattr(recipe.memory, name) != "auto"}
    if recipe.memory.micro_batch:
        forced["memory.micro_batch"] = None
    freed: list[Words] = [{}, forced] if forced else [{}]
    for start in freed:
        if start:
            yield start
        yield from _shorter(changed(recipe, start), shape, length, fits, start)
        if recipe.method != "full":
            yield from ({**start, "lora.rank": rank} for rank in _halves(recipe.lora.rank))
        for method in methods:
            yield {**start, "method": method}
    yield from ({**freed[-1], "lora.targets": list(t)} for t in FEWER_TARGETS if set(t) < set(recipe.lora.targets))
    together: list[Words] = [{"method": method} for method in methods]
    if recipe.method != "full":
        together += [{"lora.rank": rank} for rank in _halves(recipe.lora.rank)]
    for words in together:
        start = {**freed[-1], **words}
        yield from _shorter(changed(recipe, start), shape, length, fits, start)
    smaller = [b for b in SMALLER_BASES if read_shape(b, None).num_text_parameters < shape.num_text_parameters]
    others = [
        {**freed[-1], "base": base, "base_path": None, "revision": None, "method": method}
        for method in (recipe.method, *methods)
        for base in smaller
    ]
    yield from others
    for start in others:
        yield from _shorter(changed(recipe, start), read_shape(start["base"], None), length, fits, start)


def _shorter(recipe: Recipe, shape: ModelShape, length: int, fits: Fits, start: Words) -> Iterator[Words]:
    """Yields the longest length that fits, if a useful one does."""
    low, high = SHORTEST // STEP, (length - 1) // STEP
    if high < low or not fits(changed(recipe, {"data.max_length": low * STEP}), shape):
        return
    while low < high:
        middle = (low + high + 1) // 2
        if fits(changed(recipe, {"data.max_length": middle * STEP}), shape):
            low = middle
        else:
            high = middle - 1
    yield {**start, "data.max_length": low * STEP}


def _halves(rank: int) -> Sequence[int]:
    return [half for half in (rank // 2, rank // 4) if half >= 4]


def _value(recipe: Recipe, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(recipe, section) if section else recipe, name)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    return "null" if value is None else str(value)
