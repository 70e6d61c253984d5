"""`finetune data check`: reads what training would read, and tells everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.check.figures import Figures, too_long
from finetune.check.finding import Finding, Findings, Side
from finetune.check.private import Private, blotted
from finetune.check.similar import Similar
from finetune.check.text import Texts
from finetune.check.tools_schema import ToolSchemas
from finetune.data import Row, prepare, read_split
from finetune.errors import DataError, Problem
from finetune.recipe import Recipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class Checked:
    """All that a check tells."""

    findings: Findings
    figures: dict[str, Any]
    notes: tuple[str, ...]
    limit: int
    """data.max_length."""

    @property
    def refused(self) -> bool:
        """Whether training would refuse the data."""
        return self.findings.errors > 0


def check(recipe: Recipe, base: Path | None, hand_on: Callable[[Finding], None], say: Say) -> Checked:
    """Checks the rows that a recipe names.

    Args:
        recipe: the wishes.
        base: the folder of the base's tokenizer and template; without it tokens are not counted.
        hand_on: takes each finding as it comes.
        say: takes a line for the user.

    Raises:
        ArtifactError: the base has no tokenizer or template.
    """
    findings, figures, notes = Findings(hand_on), Figures(), []
    try:
        learnt, held_out = read_split(recipe)
    except DataError as error:
        findings.add(_refused(error))
        return Checked(findings, figures.told(), (), recipe.data.max_length)
    say(f"{len(learnt):,} rows to learn, {len(held_out):,} held out")
    check_rows(_sides(learnt, held_out), findings, figures)
    if base is None:
        notes.append(f"the tokenizer of {recipe.base} is not on disk: tokens are not counted")
    else:
        say("rendering")
        notes += _render(recipe, base, [*learnt, *held_out], findings, figures)
    return Checked(findings, figures.told(), tuple(notes), recipe.data.max_length)


def check_rows(rows: Iterable[tuple[Row, Side]], findings: Findings, figures: Figures) -> None:
    """Runs every detector that needs no tokenizer over rows, each seen once."""
    private, texts, schemas, similar = Private(), Texts(), ToolSchemas(), Similar()
    for row, side in rows:
        findings.add(private.see(row))
        findings.add(map(blotted, texts.see(row)))
        findings.add(map(blotted, schemas.see(row)))
        similar.see(row, side)
        figures.see(row, side)
    findings.add(map(blotted, texts.finish()))
    findings.add(map(blotted, similar.finish()))
    findings.add(figures.finish())


def _sides(learnt: Iterable[Row], held_out: Iterable[Row]) -> Iterator[tuple[Row, Side]]:
    yield from ((row, "learnt") for row in learnt)
    yield from ((row, "held out") for row in held_out)


def _render(recipe: Recipe, base: Path, rows: list[Row], findings: Findings, figures: Figures) -> Iterator[str]:
    """Renders as training would, counts tokens, and gives what training would note."""
    try:
        dataset = prepare(recipe, base)
    except DataError as error:
        findings.add(_refused(error))
        return
    limit, truncates = recipe.data.max_length, recipe.data.too_long == "truncate"
    examples = [*dataset.train, *dataset.held_out]
    if dataset.counts.dropped or dataset.counts.truncated:
        examples = [example for row in rows for example in dataset.renderer.examples(row)]
        longest = max(map(len, examples))
        findings.add(too_long(examples, limit, truncates, recipe.line("data.max_length", longest)))
    for example in examples:
        figures.see_example(example)
    yield from dataset.notes


def _refused(error: DataError) -> Iterator[Finding]:
    """Tells an error of ours as findings."""
    return (_finding(problem) for problem in error.problems)


def _finding(problem: Problem) -> Finding:
    place, _, field = problem.where.partition("  ")
    return Finding("refused", "error", place, field, problem.what, problem.why, problem.fix)
