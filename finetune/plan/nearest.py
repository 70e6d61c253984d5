"""Where a recipe does not fit: the recipes nearest to it that do, found by trying them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from finetune.levers import POSITIONS
from finetune.plan.words import Words, changed, differing, to_dense
from finetune.recipe import Recipe
from finetune.shape import ModelShape, read_shape

STEP = 256
"""Tokens to whose multiple a proposed length is rounded down."""

SHORTEST = 512
"""Tokens under which a length is not proposed: few examples of a trade fit."""

SMALLER_BASES = ("Qwen/Qwen3.6-27B", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-2B", "Qwen/Qwen3.5-0.8B")

LEAST_RANK = 4
"""That is proposed."""

FEWER_TARGETS = (("linear_attention", "attention"), ("attention",))

MOST_PROPOSALS = 3

Fits = Callable[[Recipe, ModelShape], bool]
Cure = Callable[[Recipe, ModelShape], Words]


def nearest(recipe: Recipe, shape: ModelShape, length: int, fits: Fits, cure: Cure) -> list[Words]:
    """Finds recipes that fit, each a few words away from the given one.

    Args:
        recipe: which does not fit.
        shape: of its base.
        length: tokens of its longest example.
        fits: tells whether a recipe fits on a base, once it is cured.
        cure: gives the words that a recipe needs on a base to break no rule.

    Returns:
        At most three, the nearest first.
    """
    found: list[Words] = []
    for change in _changes(recipe, shape, length, fits):
        base = read_shape(change["base"], None) if "base" in change else shape
        words = differing(recipe, change | cure(changed(recipe, change), base))
        if any(smaller.items() <= words.items() for smaller in found):
            continue  # a part of it is enough
        if fits(changed(recipe, words), base):
            found.append(words)
        if len(found) == MOST_PROPOSALS:
            break
    return found


def _changes(recipe: Recipe, shape: ModelShape, length: int, fits: Fits) -> Iterator[Words]:
    """Yields changes to try, the smallest first: levers let go, shorter examples, a smaller adapter, another base."""
    methods = ("qlora",) if recipe.method == "lora" else ("lora", "qlora") if recipe.method == "full" else ()
    forced: Words = {f"memory.{name}": "auto" for name in POSITIONS if getattr(recipe.memory, name) != "auto"}
    if recipe.memory.micro_batch:
        forced["memory.micro_batch"] = None
    freed: list[Words] = [{}, forced] if forced else [{}]
    halves = _halves(recipe.lora.rank)
    for start in freed:
        if start:
            yield start
        yield from _shorter(changed(recipe, start), shape, length, fits, start)
        if recipe.method != "full":
            yield from ({**start, "lora.rank": rank} for rank in halves[:2])
        for method in methods:
            yield {**start, "method": method}
    yield from ({**freed[-1], "lora.targets": t} for t in FEWER_TARGETS if set(t) < set(recipe.lora.targets))
    together: list[Words] = [{"method": method} for method in methods]
    if recipe.method != "full":
        together += [{"lora.rank": rank} for rank in halves[:2]]
    for words in together:
        start = {**freed[-1], **words}
        yield from _shorter(changed(recipe, start), shape, length, fits, start)
    smaller = [b for b in SMALLER_BASES if read_shape(b, None).num_text_parameters < shape.num_text_parameters]
    others = [
        {**freed[-1], **to_dense(recipe, base), "method": method}
        for method in (recipe.method, *methods)
        for base in smaller
    ]
    yield from others
    for start in others:
        yield from _shorter(changed(recipe, start), read_shape(start["base"], None), length, fits, start)
    yield from ({**freed[-1], "lora.rank": rank} for rank in halves[2:])


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


def _halves(rank: int) -> list[int]:
    """Lists the ranks to try, the nearest first."""
    halves = []
    while (rank := rank // 2) >= LEAST_RANK:
        halves.append(rank)
    return halves
