"""From a recipe's files to the examples of training and of the held-out set, with the counts that prove it."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.messages import Row
from finetune.data.rendering import Example, Renderer, rounds
from finetune.data.rows import SHOWN_PROBLEMS
from finetune.data.split import read_split
from finetune.data.template import read_template
from finetune.data.vocabulary import read_vocabulary
from finetune.errors import DataError, Problem
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

    train: list[Example]
    held_out: list[Example]
    counts: Counts
    thinking: bool
    """Whether the tuned model is to be asked with thinking."""
    renderer: Renderer
    notes: tuple[str, ...]
    """What the user should know, in words."""

    @property
    def sha256(self) -> str:
        """Identifies the exact ids and masks, in order."""
        digest = hashlib.sha256()
        for example in (*self.train, *self.held_out):
            digest.update(struct.pack(f"<I{len(example)}I", len(example), *example.ids))
            digest.update(bytes(example.learnt))
        digest.update(struct.pack("<I", len(self.train)))
        return digest.hexdigest()


def count_rows(recipe: Recipe) -> Counts:
    """Counts the examples that Qwen's template makes of the rows, for a plan made before the tokenizer is on disk.

    Only their tokens are not known, and so not how many are too long.

    Raises:
        DataError: a file cannot be learnt from.
    """
    train, held_out = read_split(recipe)
    return Counts(
        rows=len(train),
        held_out_rows=len(held_out),
        examples=sum(_num_examples(recipe, row) for row in train),
        held_out_examples=sum(_num_examples(recipe, row) for row in held_out),
    )


def _num_examples(recipe: Recipe, row: Row) -> int:
    return 1 if recipe.data.preserve_thinking else len(rounds(row.messages, row.learn_from))


def prepare(recipe: Recipe, base: Path) -> Dataset:
    """Renders everything the recipe names with the base's own template and tokenizer.

    Raises:
        DataError: a row is wrong, too long where that is an error, or nothing would be learnt.
        ArtifactError: the base has no tokenizer or template.
    """
    train, held_out = read_split(recipe)
    renderer = Renderer(
        template=read_template(base),
        vocabulary=read_vocabulary(base),
        system=recipe.system,
        preserve_thinking=recipe.data.preserve_thinking,
        learn_reasoning=recipe.data.thinking != "never",
    )
    reasoned = _check_thinking(recipe, [*train, *held_out])
    to_learn, to_hold = _render(renderer, train), _render(renderer, held_out)
    _check_lengths(recipe, to_learn, to_hold)
    fate: Counter[str] = Counter()
    learnt, held = _fit(recipe, to_learn, fate), _fit(recipe, to_hold, fate)
    for what, before, after in (
        ("no example is left to learn", to_learn, learnt),
        ("no held-out example is left", to_hold, held),
    ):
        if before and not after:
            shortest, longest = min(map(len, before)), max(map(len, before))
            why = f"all {len(before):,} are longer than {recipe.data.max_length:,} tokens: {shortest:,} to {longest:,}"
            fix = recipe.line("data.max_length", longest)
            raise DataError(what, where=recipe.where("data.max_length"), why=why, fix=fix)
    counts = Counts(
        rows=len(train),
        held_out_rows=len(held_out),
        examples=len(learnt),
        held_out_examples=len(held),
        tokens=sum(map(len, learnt)),
        learnt_tokens=sum(sum(example.learnt) for example in learnt),
        longest=max(map(len, learnt)),
        longest_held_out=max(map(len, held), default=0),
        dropped=fate["dropped"],
        truncated=fate["truncated"],
        with_reasoning=reasoned,
    )
    notes = tuple(_notes(recipe, train, held_out, counts, renderer))
    return Dataset(learnt, held, counts, reasoned > 0, renderer, notes)


def _render(renderer: Renderer, rows: Iterable[Row]) -> list[Example]:
    examples = [example for row in rows for example in renderer.examples(row)]
    for example in examples:
        assert any(example.learnt), example.place
    return examples


def _check_lengths(recipe: Recipe, *sides: Sequence[Example]) -> None:
    """Refuses what is too long, where the recipe calls that an error."""
    limit = recipe.data.max_length
    too_long = [example for examples in sides for example in examples if len(example) > limit]
    if recipe.data.too_long != "error" or not too_long:
        return
    fix = recipe.line("data.max_length", max(map(len, too_long)))
    problems = [
        Problem(
            "the row is too long",
            e.place,
            f"{len(e):,} tokens; {recipe.where('data.max_length')} allows {limit:,}",
            fix,
        )
        for e in too_long[:SHOWN_PROBLEMS]
    ]
    if more := len(too_long) - len(problems):
        problems.append(Problem(f"and {more:,} more rows are too long"))
    raise DataError.of(problems)


def _fit(recipe: Recipe, examples: Sequence[Example], fate: Counter[str]) -> list[Example]:
    """Drops or cuts the examples that are too long, as the recipe says, and counts them."""
    limit, fitting = recipe.data.max_length, []
    for example in examples:
        if len(example) <= limit:
            fitting.append(example)
        elif recipe.data.too_long == "truncate" and (cut := _cut_at_turn(example, limit)):
            fate["truncated"] += 1
            fitting.append(cut)
        else:
            fate["dropped"] += 1
    return fitting


def _cut_at_turn(example: Example, limit: int) -> Example | None:
    """Keeps the whole learnt turns that fit; a turn ends where the mask falls from learnt to not."""
    for end in range(limit, 0, -1):
        if example.learnt[end - 1] and not example.learnt[end]:
            return Example(example.ids[:end], example.learnt[:end], example.place, example.ids[end:])
    return None


def _check_thinking(recipe: Recipe, rows: Sequence[Row]) -> int:
    """Counts the rows whose reasoning is learnt, and demands it of all where the recipe does."""
    if recipe.data.thinking == "never":
        return 0
    reasoned = [any("reasoning_content" in m for m in row.messages[row.learn_from :]) for row in rows]
    if recipe.data.thinking == "always" and not all(reasoned):
        without = [row for row, has in zip(rows, reasoned, strict=True) if not has]
        raise DataError(
            f"{len(without)} of {len(rows)} rows have no reasoning",
            where=f"{without[0].place}  reasoning_content",
            why=f"{recipe.where('data.thinking')} demands it of every row; this is the first without",
            fix=recipe.line("data.thinking", "auto"),
        )
    return sum(reasoned)


def _notes(
    recipe: Recipe, train: Sequence[Row], held_out: Sequence[Row], counts: Counts, renderer: Renderer
) -> Iterable[str]:
    """Says in words what a user would want to know before training on this."""
    unread = Counter(column for row in (*train, *held_out) for column in row.unread)
    if 0 < counts.with_reasoning < counts.rows + counts.held_out_rows:
        without = counts.rows + counts.held_out_rows - counts.with_reasoning
        yield f"{without} rows have no reasoning: they are learnt as answers to a prompt without thinking"
    if unread:
        yield "columns that are not learnt: " + ", ".join(f"{name} ({n} rows)" for name, n in unread.items())
    spelt = [row.place for row in (*train, *held_out) if renderer.control.search(f"{row.messages}{row.tools}")]
    if spelt:
        yield f"{len(spelt)} rows spell a control token, first {spelt[0]}: it is encoded as text"
    if counts.dropped:
        share = counts.dropped / (counts.examples + counts.held_out_examples + counts.dropped)
        yield f"{counts.dropped} examples ({share:.0%}) longer than {recipe.data.max_length} tokens are left out"
    if counts.truncated:
        yield f"{counts.truncated} examples are cut at a turn to fit {recipe.data.max_length} tokens"
    if counts.examples + counts.held_out_examples + counts.dropped > counts.rows + counts.held_out_rows:
        yield "chats of several questions became one example for each (data.preserve_thinking: true keeps them whole)"
    leaked = {row.fingerprint for row in train} & {row.fingerprint for row in held_out}
    if leaked:
        yield f"{len(leaked)} held-out rows are also learnt: the held-out loss flatters"
    if not held_out:
        yield "nothing is held out: the run cannot show that it helped"
