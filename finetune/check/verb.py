"""`finetune data check`: reads what training would read, and tells everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.check.figures import Figures, too_long
from finetune.check.finding import Finding, Findings, Side
from finetune.check.hiding import hiding
from finetune.check.presidio import Presidio
from finetune.check.private import Private, blotted
from finetune.check.similar import Similar
from finetune.check.text import Texts
from finetune.check.tools_schema import ToolSchemas
from finetune.data import Example, Row, prepare, read
from finetune.data.assigning import HELD_OUT
from finetune.data.noting import not_learnt
from finetune.data.reading import Read, check_sides
from finetune.data.sources import folder_notes
from finetune.errors import DataError, Problem
from finetune.recipe import Recipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class CheckedFile:
    """What one file holds."""

    name: str
    format: str
    shapes: dict[str, int]
    """Shape -> rows."""
    problems: int
    """Records that training would refuse."""
    held_out: bool
    note: str
    """What is not read of it, such as other sheets."""


@dataclass(frozen=True)
class Checked:
    """All that a check tells."""

    findings: Findings
    figures: dict[str, Any]
    notes: tuple[str, ...]
    limit: int
    """data.max_length."""
    files: tuple[CheckedFile, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether training would refuse the data."""
        return self.findings.errors > 0


def check(
    recipe: Recipe, base: Path | None, hand_on: Callable[[Finding], None], say: Say, presidio: Presidio | None = None
) -> Checked:
    """Checks the rows that a recipe names.

    Args:
        recipe: the wishes.
        base: the folder of the base's tokenizer and template; without it tokens are not counted.
        hand_on: takes each finding as it comes.
        say: takes a line for the user.
        presidio: looks for names of people and the identity numbers of many countries too.

    Raises:
        ArtifactError: the base has no tokenizer or template.
    """
    findings, figures, notes = Findings(hand_on), Figures(), list[str]()
    limit = recipe.data.max_length
    try:
        found = read(recipe, lambda problem: findings.add([_finding(problem)]))
    except DataError as error:
        findings.add(_refused(error))
        return Checked(findings, figures.told(), (), limit)
    if not findings.errors:
        try:
            check_sides(recipe, found.problems, found.times)
        except DataError as error:
            findings.add(_refused(error))
    learnt, held_out = found.count(learnt=True)[0], found.count(learnt=False)[0]
    say(f"{learnt:,} rows to learn, {held_out:,} held out")
    check_rows(_sides(found), findings, figures, presidio)
    notes += presidio.notes() if presidio else ()
    if findings.errors:
        notes += folder_notes(recipe)
        notes.append("tokens are not counted: training would refuse the rows as they are")
    elif base is None:
        notes += [*not_learnt(found.unread, found.left_out), *folder_notes(recipe)]
        notes.append(f"the tokenizer of {recipe.base} is not on disk: tokens are not counted")
    else:
        say("rendering")
        notes += _render(recipe, base, findings, figures)
    return Checked(findings, figures.told(), tuple(notes), limit, tuple(_files(found)))


def check_rows(
    rows: Iterable[tuple[Row, Side]], findings: Findings, figures: Figures, presidio: Presidio | None = None
) -> None:
    """Runs every detector that needs no tokenizer over rows, each seen once."""

    def masked(found: Iterable[Finding]) -> Iterator[Finding]:
        for finding in map(blotted, found):
            yield presidio.blotted(finding) if presidio else finding

    private, texts, schemas, similar = Private(), Texts(), ToolSchemas(), Similar()
    for row, side in presidio.through(rows, findings) if presidio else rows:
        with hiding(presidio.found_in(row) if presidio else ()):
            findings.add(private.see(row))
            findings.add(masked(texts.see(row)))
            findings.add(masked(schemas.see(row)))
            similar.see(row, side)
        figures.see(row, side)
    findings.add(masked(texts.finish()))
    findings.add(masked(similar.finish()))
    findings.add(figures.finish())


def _sides(found: Read) -> Iterator[tuple[Row, Side]]:
    for row, times in found.rows():
        if times:
            yield row, "held out" if times == HELD_OUT else "learnt"


def _files(found: Read) -> Iterator[CheckedFile]:
    """Says of each file what it holds."""
    for file, shapes, problems in zip(found.files, found.shapes, found.wrong, strict=True):
        form = file.reading.format
        yield CheckedFile(
            name=file.reading.shown,
            format=form.name + (", gzip" if form.gzip else ""),
            shapes=dict(shapes),
            problems=problems,
            held_out=file.held_out,
            note=form.note,
        )


def _render(recipe: Recipe, base: Path, findings: Findings, figures: Figures) -> Iterator[str]:
    """Renders as training would, counts tokens, and gives what training would note."""
    try:
        dataset = prepare(recipe, base)
    except DataError as error:
        findings.add(_refused(error))
        return
    limit = recipe.data.max_length
    longest = max(map(_whole, (*dataset.train, *dataset.held_out, *dataset.left_out)), default=0)
    for examples in (dataset.train, dataset.held_out, dataset.left_out):
        for example in examples:
            figures.see_example(example)
            if _whole(example) > limit:
                findings.add(too_long(example, limit, recipe.line("data.max_length", longest)))
    yield from dataset.notes


def _whole(example: Example) -> int:
    """Counts the tokens of an example, those too that were cut off."""
    return len(example) + len(example.cut)


def _refused(error: DataError) -> Iterator[Finding]:
    """Tells an error of ours as findings."""
    return (_finding(problem) for problem in error.problems)


def _finding(problem: Problem) -> Finding:
    place, _, field = problem.where.partition("  ")
    return Finding("refused", "error", place, field, problem.what, problem.why, problem.fix)
