"""Proof `formats`: every public file of rows is read, or told what it lacks; each mapping that is proposed works.

    FINETUNE_TEST_DATA=... scripts/prove formats

Prints a table: file, format, shape, rows, and what is wrong. Where columns are not certain, the `data.columns` of the
error is pasted into a recipe as it stands, and the file is read again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune.check.figures import Figures
from finetune.check.finding import Findings
from finetune.check.verb import check_rows
from finetune.data.files import LeftOut
from finetune.data.filling import reading_of, rows_in
from finetune.data.messages import Row
from finetune.data.shapes import Columns
from finetune.data.shapes.proposing import UNCERTAIN
from finetune.errors import DataError, Problem
from finetune.recipe.yaml_places import parse

PASSED_OVER = ("LICENSE", "UPSTREAM", "MANIFEST", "README", "PROVENANCE")


@dataclass
class Found:
    """What one file holds."""

    name: str
    format: str = ""
    shapes: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    proposed: str = ""
    """The `data.columns` of the error, if there was one."""

    @property
    def rows(self) -> int:
        """Rows that can be learnt from."""
        return self.shapes.total()


def files(folder: Path) -> Iterator[Path]:
    """Lists the files that may hold rows; tokenizers, licences and descriptions hold none."""
    for file in sorted(folder.rglob("*")):
        described = file.suffix.lower() in (".md", ".yaml") or file.name.startswith(PASSED_OVER)
        if file.is_file() and "tokenizers" not in file.parts and not described:
            yield file


def look(file: Path, name: str, columns: Columns | None = None) -> Found:
    """Reads a file whole."""
    found = Found(name)
    try:
        reading = reading_of(file, name, columns, None)
        found.format = reading.format.name + (", gzip" if reading.format.gzip else "")
        for row in rows_in(reading):
            if isinstance(row, Row):
                found.shapes[row.shape] += 1
            elif isinstance(row, LeftOut):
                found.left_out += 1
            else:
                _note(found, row)
    except DataError as error:
        for problem in error.problems:
            _note(found, problem)
    return found


def _note(found: Found, problem: Problem) -> None:
    found.problems[problem.what] += 1
    if problem.what == UNCERTAIN and not found.proposed:
        found.proposed = problem.fix


def pasted(proposed: str) -> Columns:
    """Reads a proposal as a recipe's YAML."""
    columns: Columns = parse(proposed.replace("data.columns:", "columns:"), "pasted").value["columns"]
    return {role: tuple(column) if isinstance(column, list) else column for role, column in columns.items()}


def warnings(file: Path, name: str, columns: Columns | None) -> Counter[str]:
    """Counts what `finetune data check` warns of in the rows that can be learnt from."""
    findings = Findings(lambda finding: None)
    try:
        rows = [row for row in rows_in(reading_of(file, name, columns, None)) if isinstance(row, Row)]
    except DataError:
        return Counter()
    check_rows(((row, "learnt") for row in rows), findings, Figures())
    return findings.counts


def main() -> None:
    """Prints the table."""
    folder = Path(os.environ["FINETUNE_TEST_DATA"])
    print("| file | format | shape | rows | refused | warned of by the check |\n|---|---|---|---|---|---|")
    for file in files(folder):
        found, columns = look(file, str(file.relative_to(folder))), None
        shape = ", ".join(found.shapes)
        wrong = [f"{what} ({count:,})" for what, count in found.problems.items() if what != UNCERTAIN]
        if found.proposed:
            columns = pasted(found.proposed)
            again = look(file, found.name, columns)
            shape, found.shapes = f"`{found.proposed}`", again.shapes
            wrong = [f"{what} ({count:,})" for what, count in again.problems.items()]
        if found.left_out:
            wrong.append(f"left out by their label ({found.left_out:,})")
        warned = ", ".join(f"{code} {n:,}" for code, n in warnings(file, found.name, columns).most_common())
        print(
            f"| {found.name} | {found.format} | {shape} | {found.rows:,} | {'; '.join(wrong)} | {warned} |", flush=True
        )


if __name__ == "__main__":
    main()
