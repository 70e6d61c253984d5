"""From a recipe's files to the examples of training and of the held-out set, with the counts that prove it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from finetune.data import examples as lazily
from finetune.data.assigning import Candidates, assign
from finetune.data.entries import default_cache
from finetune.data.examples import Stores
from finetune.data.filling import Reading, fill
from finetune.data.fitting import Fitted, fit
from finetune.data.noting import notes
from finetune.data.problems import Problems
from finetune.data.reading import check_sides, read
from finetune.data.rendering import Example, Renderer
from finetune.data.sources import Sourced, to_hold_out, to_learn
from finetune.data.split import Mark
from finetune.data.store import REASONS, TEXT, Store
from finetune.data.template import read_template
from finetune.data.vocabulary import read_vocabulary
from finetune.errors import DataError
from finetune.recipe import Recipe


@dataclass(frozen=True)
class Counts:
    """What was read and what became of it."""

    rows: int
    examples: int
    held_out_rows: int = 0
    held_out_examples: int = 0
    tokens: int | None = None
    """Of all training examples; None while there is no tokenizer."""
    learnt_tokens: int | None = None
    """Of all training examples; what one epoch is supervised by."""
    longest: int | None = None
    """Tokens of the longest training example; None while there is no tokenizer."""
    longest_held_out: int | None = None
    """Tokens of the longest held-out example, 0 if there is none; None while there is no tokenizer."""
    dropped: int = 0
    """Examples longer than data.max_length that were left out."""
    truncated: int = 0
    """Examples longer than data.max_length that were cut at a turn."""
    with_reasoning: int = 0
    """Rows whose reasoning is learnt."""


@dataclass(frozen=True)
class Dataset:
    """Everything that is learnt and everything that is held out."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    counts: Counts
    thinking: bool
    """Whether the tuned model is to be asked with thinking."""
    renderer: Renderer
    notes: tuple[str, ...]
    """What the user should know, in words."""
    left_out: Sequence[Example] = ()
    """Examples of both sides that are too long, and are neither learnt nor scored."""
    files: tuple[tuple[Sourced, Store], ...] = field(default=(), repr=False)
    """Each file that was read, those of held-out rows last, and all that was rendered of it."""

    @cached_property
    def sha256(self) -> str:
        """Identifies the exact ids and masks, in order."""
        return lazily.sha256(self.train, self.held_out)


def count_rows(recipe: Recipe) -> Counts:
    """Counts the examples that Qwen's template makes of the rows, for a plan made before the tokenizer is on disk.

    Only their tokens are not known, and so not how many are too long.

    Raises:
        DataError: a file cannot be learnt from.
    """
    found = read(recipe)
    check_sides(recipe, found.problems, found.times)
    rows, examples = found.count(learnt=True)
    held_out_rows, held_out_examples = found.count(learnt=False)
    return Counts(rows, examples, held_out_rows, held_out_examples)


def prepare(recipe: Recipe, base: Path, cache: Path | None = None) -> Dataset:
    """Renders everything the recipe names with the base's own template and tokenizer.

    Args:
        recipe: what to learn from.
        base: the folder of tokenizer and template.
        cache: where rendered files are kept for the next time; by default the user's own cache folder.

    Raises:
        DataError: a row is wrong, too long where that is an error, or nothing would be learnt.
        ArtifactError: the base has no tokenizer or template.
        OutsideError: a data set of the Hub cannot be downloaded.
    """
    files = (*to_learn(recipe), *to_hold_out(recipe))
    renderer = renderer_of(recipe, base)
    problems, stores = Problems(), list[tuple[Store, Reading]]()
    for file in files:
        store, found = fill(file.reading, renderer, cache or default_cache())
        problems.add(found)
        stores.append((store, file.reading))
    candidates = [_candidates(file, store) for file, (store, _) in zip(files, stores, strict=True)]
    times = assign(candidates, recipe.data.eval)
    check_sides(recipe, problems, times)
    reasoned = _check_thinking(recipe, stores, times)
    fitted = fit(recipe, stores, times)
    told = tuple(notes(recipe, files, stores, times, fitted, reasoned))
    counts = _counts(times, fitted, reasoned)
    kept = tuple((file, store) for file, (store, _) in zip(files, stores, strict=True))
    return Dataset(fitted.train, fitted.held_out, counts, reasoned > 0, renderer, told, fitted.left_out, kept)


def _counts(times: Sequence[array[int]], fitted: Fitted, reasoned: int) -> Counts:
    train, held_out = fitted.train, fitted.held_out
    return Counts(
        rows=sum(n > 0 for each in times for n in each),
        held_out_rows=sum(n < 0 for each in times for n in each),
        examples=len(train),
        held_out_examples=len(held_out),
        tokens=sum(train.lengths),
        learnt_tokens=sum(map(train.learnt, range(len(train)))),
        longest=max(train.lengths, default=0),
        longest_held_out=max(held_out.lengths, default=0),
        dropped=fitted.fate["dropped"],
        truncated=fitted.fate["truncated"],
        with_reasoning=reasoned,
    )


def renderer_of(recipe: Recipe, base: Path) -> Renderer:
    """Makes the renderer that a recipe wishes, of a base's template and tokenizer.

    Raises:
        ArtifactError: the base has none.
    """
    return Renderer(
        template=read_template(base),
        vocabulary=read_vocabulary(base),
        system=recipe.system,
        preserve_thinking=recipe.data.preserve_thinking,
        learn_reasoning=recipe.data.thinking != "never",
    )


def _candidates(file: Sourced, store: Store) -> Candidates:
    """Says of the rows of a store what their side follows from."""
    rows = range(store.num_rows)
    marks = [Mark(store.fingerprint(row), store.likeness(row), store.group(row)) for row in rows]
    made = Counter(store.row_of(number) for number in range(store.num_examples))
    return Candidates(file.source, marks, array("i", [made[row] for row in rows]), file.held_out)


def _check_thinking(recipe: Recipe, stores: Stores, times: Sequence[array[int]]) -> int:
    """Counts the rows whose reasoning is learnt, and demands it of all where the recipe does."""
    if recipe.data.thinking == "never":
        return 0
    reasoned, without, first = 0, 0, ""
    for (store, reading), each in zip(stores, times, strict=True):
        for row, n in enumerate(each):
            flags = store.flags(row) if n else TEXT
            if flags & REASONS:
                reasoned += 1
            elif not flags & TEXT:
                without += 1
                first = first or reading.place(store.line(row))
    if recipe.data.thinking == "always" and without:
        raise DataError(
            f"{without} of {reasoned + without} rows have no reasoning",
            where=f"{first}  reasoning_content",
            why=f"{recipe.where('data.thinking')} demands it of every row; this is the first without",
            fix=recipe.line("data.thinking", "auto"),
        )
    return reasoned
