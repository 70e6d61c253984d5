"""Says in words what a user would want to know before training on these rows."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from finetune.data.assigning import HELD_OUT
from finetune.data.examples import Examples, Stores
from finetune.data.fitting import Fitted
from finetune.data.sources import Sourced, folder_notes
from finetune.data.store import SPELLS_CONTROL, UNANSWERED
from finetune.recipe import Recipe


def notes(
    recipe: Recipe, files: Sequence[Sourced], stores: Stores, times: Sequence[array[int]], fitted: Fitted, reasoned: int
) -> Iterator[str]:
    """Yields them, the weightiest first.

    Args:
        recipe: of the rows.
        files: in their order.
        stores: of the files.
        times: of each row of each file how often it is learnt, or HELD_OUT.
        fitted: the examples.
        reasoned: rows whose reasoning is learnt.
    """
    rows = sum(n != 0 for each in times for n in each)
    if 0 < reasoned < rows:
        yield f"{rows - reasoned} rows have no reasoning: they are learnt as answers to a prompt without thinking"
    told = [store.told for store, _ in stores]
    unread, left_out = (sum(each, Counter[str]()) for each in zip(*((t.unread, t.left_out) for t in told), strict=True))
    yield from not_learnt(unread, left_out)
    if n := sum(n for each in told for shape, n in each.shapes.items() if shape.startswith("preference")):
        yield f"{n} rows are pairs of answers: the chosen one is learnt, the rejected one is not"
    if number := sum(sum(1 for _ in store.flagged(UNANSWERED)) for store, _ in stores):
        yield f"{number} rows end without an answer: what follows the last one is not learnt"
    spelt = [reading.place(store.line(row)) for store, reading in stores for row in store.flagged(SPELLS_CONTROL)]
    if spelt:
        yield f"{len(spelt)} rows spell a control token, first {spelt[0]}: it is encoded as text"
    yield from (f"{reading.shown}: {reading.format.note}" for _, reading in stores if reading.format.note)
    yield from folder_notes(recipe)
    if unkept := next((store.unkept for store, _ in stores if store.unkept), ""):
        yield f"what was rendered is not kept for the next run: {unkept} (FINETUNE_DATA_CACHE names another folder)"
    yield from _lengths(recipe, fitted, rows)
    yield from _mixture(files, fitted.train)
    sides: tuple[set[bytes], set[bytes]] = (set(), set())
    for (store, _), each in zip(stores, times, strict=True):
        for row, n in enumerate(each):
            if n:
                sides[n == HELD_OUT].add(store.fingerprint(row))
    if leaked := len(sides[0] & sides[1]):
        yield f"{leaked} held-out rows are also learnt: the held-out loss flatters"
    if not fitted.held_out:
        yield "nothing is held out: the run cannot show that it helped"


def not_learnt(unread: Counter[str], left_out: Counter[str]) -> Iterator[str]:
    """Says which columns and which records are left out, and of how many rows."""
    if unread:
        yield "columns that are not learnt: " + ", ".join(f"{name} ({n} rows)" for name, n in unread.items())
    for why, n in left_out.items():
        yield f"{n} rows are not learnt: {why}"


def _lengths(recipe: Recipe, fitted: Fitted, rows: int) -> Iterator[str]:
    fate, limit = fitted.fate, recipe.data.max_length
    made = len(fitted.train) + len(fitted.held_out) + fate["dropped"]
    if fate["dropped"]:
        yield f"{fate['dropped']} examples ({fate['dropped'] / made:.0%}) longer than {limit} tokens are left out"
    if fate["truncated"]:
        yield f"{fate['truncated']} examples are cut at a turn to fit {limit} tokens"
    if fate["stretches"]:
        yield f"texts longer than {limit} tokens are learnt in parts: {fate['stretches']} examples more"
    if not recipe.data.preserve_thinking and any(_several(fitted.train)):
        yield "chats of several questions became one example for each (data.preserve_thinking: true keeps them whole)"


def _several(examples: Examples) -> Iterator[bool]:
    """Tells of each store whether a row of it became several examples."""
    for store, _ in examples.stores:
        yield store.num_examples > store.num_rows


def _mixture(files: Sequence[Sourced], train: Examples) -> Iterator[str]:
    """Says what each source adds, in examples and in tokens, where there are several."""
    if len({file.number for file in files}) < 2:
        return
    examples, tokens = Counter[int](), Counter[int]()
    for i, length in enumerate(train.lengths):
        number = files[train.source(i)].number
        examples[number] += 1
        tokens[number] += length
    for number in sorted({file.number for file in files if not file.held_out}):
        source = next(file.source for file in files if file.number == number)
        name = source.hub or next(file.reading.shown for file in files if file.number == number)
        share = f"{examples[number] / len(train):.0%} of the examples, {tokens[number] / sum(tokens.values()):.0%}"
        wished = f" (a share of {source.share:.0%} is wished)" if source.share else ""
        yield f"{name}: {examples[number]:,} examples an epoch, {share} of the tokens{wished}"
