"""Names of people and identity numbers of many countries, by spaCy's pipelines and Microsoft Presidio, if asked for.

Numbers are searched in every text, names where a pipeline of the text's language was named. A name counts from two
words on: first names alone are everywhere and nobody's, so rows with nothing else are only counted. One finding a row
tells all its names, so that the count is that of the rows to look at.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from finetune.check.finding import Finding, Findings, Side
from finetune.check.hiding import closed, hidden, hiding, seen_of
from finetune.check.identities import Identity, Number, identities, numbers
from finetune.check.languages import UNTOLD, language
from finetune.check.patterns import matches
from finetune.check.pipelines import CODES, Pipeline, open_pipelines, pipeline_of
from finetune.check.private import Frames, danger, masked
from finetune.check.saying import Said, said
from finetune.data import Row

ROWS, CHARACTERS = 256, 1_000_000
"""That are held back at most, to be searched together."""

LONGEST = 60
"""Characters of a name; what is longer is none."""

SHOWN = 3
"""Names of a row that are shown, masked."""


@dataclass
class _Text:
    """A text that is searched, and what was found in it."""

    row: int
    said: Said
    pipeline: Pipeline | None
    names: list[str] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)


class Presidio:
    """Goes through rows in batches; what it found in one can be masked in the findings of others afterwards."""

    def __init__(self, pipelines: tuple[Pipeline, ...], wanted: tuple[Identity, ...]) -> None:
        self._pipelines, self._wanted = pipelines, wanted
        self._frames = Frames()
        self._unsearched: Counter[str] = Counter()
        self._short = 0
        self._of_rows: dict[str, tuple[str, ...]] = {}
        self._shared: set[str] = set()

    def through(self, rows: Iterable[tuple[Row, Side]], findings: Findings) -> Iterator[tuple[Row, Side]]:
        """Hands rows on, each after it was searched and what it holds was told."""
        held: list[tuple[Row, Side]] = []
        size = 0
        for row, side in rows:
            held.append((row, side))
            size += sum(len(text.text) for text in said(row))
            if len(held) >= ROWS or size >= CHARACTERS:
                findings.add(self._search([row for row, _ in held]))
                yield from held
                held, size = [], 0
        findings.add(self._search([row for row, _ in held]))
        yield from held

    def found_in(self, row: Row) -> frozenset[str]:
        """Gives what was found in a row, and in system prompts, to be hidden in whatever is shown of it."""
        return frozenset((*self._of_rows.get(row.place, ()), *self._shared))

    def blotted(self, finding: Finding) -> Finding:
        """Masks in the words of a finding what was found in its rows; what it shows of them is masked already."""
        stretches = {text for place in (finding.place, *finding.others) for text in self._of_rows.get(place, ())}
        with hiding(stretches | self._shared):
            what, why, fix = (closed(hidden(text)) for text in (finding.what, finding.why, finding.fix))
        return replace(finding, what=what, why=why, fix=fix)

    def notes(self) -> Iterator[str]:
        """Tells what was not searched, and what was found and not told."""
        yield from (pipeline.note for pipeline in self._pipelines if pipeline.note)
        for name, count in self._unsearched.most_common():
            codes = " or ".join(CODES.get(name, ()))
            wanting = f"no pipeline for {codes} was named" if codes else "no pipeline named reads them"
            yield f"{_rows(count)} in {name} not searched for names of people: {wanting}"
        if self._short:
            yield f"{_rows(self._short)} with names of one word only, such as first names: not told"

    def _search(self, rows: Sequence[Row]) -> Iterator[Finding]:
        """Searches rows together and yields what they hold, row by row."""
        texts = [text for i, row in enumerate(rows) for text in self._texts(i, row)]
        for pipeline in self._pipelines:
            mine = [text for text in texts if text.pipeline is pipeline]
            for text, spans in zip(mine, pipeline.people([text.said.text for text in mine]), strict=True):
                text.names = names_of(text.said.text, spans)
        by_row: list[list[_Text]] = [[] for _ in rows]
        for text in texts:
            text.numbers = [n for n in numbers(text.said.text, self._wanted) if not _ours(text.said.text, n)]
            by_row[text.row].append(text)
        for row, found in zip(rows, by_row, strict=True):
            self._remember(row, found)
            yield from self._told(row, found)

    def _texts(self, i: int, row: Row) -> Iterator[_Text]:
        """Yields the texts of a row that are searched, each with the pipeline of its language."""
        new = [(text, language(text.text)) for text in said(row) if not self._frames.again(text)]
        told = Counter(name for _, name in new if name not in UNTOLD).most_common(1)
        missed = set[str]()
        for text, name in new:
            pipeline = pipeline_of(name, told[0][0] if told else "", self._pipelines)
            if pipeline is None and name not in UNTOLD:
                missed.add(name)
            yield _Text(i, text, pipeline)
        self._unsearched.update(missed)

    def _remember(self, row: Row, found: Sequence[_Text]) -> None:
        """Keeps what must not be quoted."""
        for text in found:
            stretches = {*text.names, *(text.said.text[n.start : n.end] for n in text.numbers)}
            stretches |= {" ".join(each.split()) for each in stretches}
            if text.said.role == "system":
                self._shared |= stretches
            elif stretches:
                self._of_rows[row.place] = tuple({*self._of_rows.get(row.place, ()), *stretches})

    def _told(self, row: Row, found: Sequence[_Text]) -> Iterator[Finding]:
        """Yields a finding for each number of a row, and one for all its names."""
        for text in found:
            for number in text.numbers:
                what = f"this looks like {'an' if number.name[0] in 'aeAEI' else 'a'} {number.name}"
                shown = masked(text.said.text[number.start : number.end])
                why, fix = danger(text.said.learnt), "replace it with an invented one"
                yield Finding("personal-id", "warning", row.place, text.said.field, what, why, fix, shown)
        naming = [text for text in found if any(map(is_full, text.names))]
        if not naming:
            self._short += any(text.names for text in found)
            return
        names = list(dict.fromkeys(" ".join(name.split()) for text in naming for name in text.names if is_full(name)))
        learnt = [text for text in naming if text.said.learnt]
        what = "this names a person" if len(names) == 1 else f"this names {len(names)} people"
        shown = ", ".join(f"{_begun(name)} ({len(name)} characters)" for name in names[:SHOWN]) + (
            ", …" if len(names) > SHOWN else ""
        )
        fix = "replace names with invented ones, unless they are public figures"
        place = (learnt or naming)[0].said.field
        yield Finding("personal-name", "warning", row.place, place, what, danger(bool(learnt)), fix, shown)


def open_presidio(names: Sequence[str]) -> Presidio:
    """Opens the pipelines and makes Presidio's recognisers.

    Raises:
        OutsideError: the extra or a pipeline is not installed, or one is damaged or lacks a package.
        RecipeError: a folder holds no pipeline, or two are of one language.
    """
    pipelines = open_pipelines(names)
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    return Presidio(pipelines, identities())


def is_full(name: str) -> bool:
    """Tells whether a name is that of one person: two words, or two characters of a script without spaces."""
    if len(name.split()) > 1:
        return True
    return len(name) > 1 and language(name) in ("Chinese", "Japanese", "Korean", "Thai")


def names_of(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Gives the names among what a pipeline found, without what cannot be one and what our own patterns found."""
    good = [span for span in (_bare(text, *span) for span in spans) if _may_be_name(text[slice(*span)])]
    taken = [found.span() for _, found in matches(text)] if good else []
    return [text[start:end] for start, end in good if not any(start < e and s < end for s, e in taken)]


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """Leaves out what stands around a name and is no letter of it: quotes, blanks, control characters."""
    while start < end and not text[start].isalnum():
        start += 1
    while start < end and not text[end - 1].isalnum():
        end -= 1
    return start, end


def _may_be_name(name: str) -> bool:
    """Tells whether a stretch has letters and no digits, and a capital at both ends where its script has them."""
    if len(name) > LONGEST or any(c.isdigit() or c in "<>{}[]()=@/\\_|*:;\n" for c in name):
        return False
    words = name.split()
    return sum(map(str.isalpha, name)) > 1 and not words[0][0].islower() and not words[-1][0].islower()


def _begun(name: str) -> str:
    """Shows the first two characters, or one of a name that has hardly more, as a Chinese one."""
    return f"{name[: seen_of(name)]}…"


def _ours(text: str, number: Number) -> bool:
    return any(number.start < found.end() and found.start() < number.end for _, found in matches(text))


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
