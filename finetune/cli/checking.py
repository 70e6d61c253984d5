"""`finetune data check`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finetune.cli.bar import Bar
from finetune.cli.data_look import TOKENIZER
from finetune.cli.targets import check_apart, check_target
from finetune.errors import DataError, shown

if TYPE_CHECKING:
    from finetune.check import Checked, Finding

SHOWN_OF_A_KIND = 3

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated.")
REPORT = typer.Option(None, "--report", metavar="FILE", help="Write every finding, one JSON object a line.")
PAGE = typer.Option(None, "--page", metavar="FILE", help="Write a page with pictures: one .html file.")
PRESIDIO = typer.Option(
    [],
    "--presidio",
    metavar="PIPELINE",
    help="Look for names of people and identity numbers too: a spaCy pipeline, by name or folder; may be repeated.",
)
LINE, TITLE = '{"code": "', "<title>Data of "
"""What stands in each report and page that this command writes, and in nothing of somebody else."""

QUIET = typer.Option(False, "--quiet", help="No progress.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def check(
    recipe: Path = typer.Argument(help="The recipe; or a file or folder of rows alone."),
    tokenizer: Path | None = TOKENIZER,
    overrides: list[str] = SET,
    report: Path | None = REPORT,
    page: Path | None = PAGE,
    presidio: list[str] = PRESIDIO,
    quiet: bool = QUIET,
    as_json: bool = JSON,
) -> None:
    """Tell what is wrong with the data: leaks, duplicates, secrets, broken texts and calls."""
    from finetune.atomic import refusal_told, write_text
    from finetune.check import check as check_data
    from finetune.check.page import write_page
    from finetune.check.presidio import open_presidio
    from finetune.hub import locate
    from finetune.recipe import RECIPES, load_or_rows

    wishes = load_or_rows(recipe, overrides)
    base = tokenizer or locate(wishes.base, wishes.base_path, wishes.revision)
    check_target("--report", report, recipe, wishes, LINE)
    check_target("--page", page, recipe, wishes, TITLE)
    check_apart(report=report, page=page)
    opened = open_presidio(presidio) if presidio else None
    with ExitStack() as open_files:
        lines = None
        if report is not None:
            open_files.enter_context(refusal_told(report, "--report elsewhere"))
            lines = open_files.enter_context(report.open("w", encoding="utf-8", errors="backslashreplace"))

        def hand_on(finding: Finding) -> None:
            if lines is not None:
                lines.write(json.dumps(asdict(finding), ensure_ascii=False) + "\n")

        checked = check_data(wishes, base, hand_on, Bar(quiet).say, opened)
    if page is not None:
        with refusal_told(page, "--page elsewhere"):
            write_text(page, write_page(checked, str(recipe), str(report) if report else ""))
    bare = recipe.suffix.lower() not in RECIPES
    print(json.dumps(as_told(checked), indent=2) if as_json else "\n".join(told(checked, report is not None, bare)))
    if checked.refused:
        raise typer.Exit(DataError.exit_code)


def as_told(checked: Checked) -> dict[str, Any]:
    """Gives what `--json` prints: all counts, and the findings that are held."""
    found = checked.findings
    return {
        "refused": checked.refused,
        "counts": dict(found.counts),
        "rows": dict(found.rows),
        "findings": [asdict(finding) for kept in found.kept.values() for finding in kept],
        "files": [asdict(file) for file in checked.files],
        "figures": checked.figures,
        "notes": list(checked.notes),
    }


def told(checked: Checked, reported: bool, bare: bool = False) -> list[str]:
    """Lays a check out for a terminal; `bare` rows have no recipe, so a key goes onto the command line."""
    from finetune.check import CODES

    lines: list[str] = []
    found = checked.findings
    for code in [code for code in CODES if code in found.counts]:
        kept, count = found.kept[code], found.counts[code]
        rows = f", {found.rows[code]:,} rows" if found.rows[code] > count and not code.startswith("leak") else ""
        lines += [f"{kept[0].severity}: {CODES[code]}  [{code}: {count:,}{rows}]"]
        for finding in _told_first(kept):
            lines += [f"  {_one_line(finding.place + ('  ' + finding.field if finding.field else ''))}"]
            parts = (
                ("what", finding.what),
                ("shows", finding.snippet),
                ("why", finding.why),
                ("fix", _typed(finding.fix, bare)),
            )
            lines += [f"    {name:<5} {_one_line(text)}" for name, text in parts if text]
        if (more := count - len(_told_first(kept))) > 0:
            lines += [f"  and {more:,} more" + ("" if reported else "; --report FILE writes them all")]
    lines += [""] if lines else []
    return [
        *lines,
        *files(checked),
        *figures(checked),
        *(shown(f"note: {note}") for note in checked.notes),
        _verdict(checked),
    ]


def _told_first(kept: list[Finding]) -> list[Finding]:
    """Gives the first few of a kind; what is wrong with a whole file is told once."""
    from finetune.data.shapes.proposing import OF_THE_FILE

    once = {(finding.what, finding.fix): finding for finding in reversed(kept) if finding.what in OF_THE_FILE}
    return [f for f in kept if f.what not in OF_THE_FILE or f is once[f.what, f.fix]][:SHOWN_OF_A_KIND]


def files(checked: Checked) -> list[str]:
    """What each file holds, one a line."""
    lines = []
    for file in checked.files:
        shapes = ", ".join(f"{name} {count:,}" for name, count in file.shapes.items()) or "no rows"
        wrong = f"; {file.problems:,} that cannot be learnt from" if file.problems else ""
        more = f"{'; held out' if file.held_out else ''}{f'; {file.note}' if file.note else ''}"
        lines += [shown(f"file       {file.name}: {file.format}; {shapes}{wrong}{more}")]
    return lines


def figures(checked: Checked) -> list[str]:
    """The figures, one a line."""
    f = checked.figures
    total = sum(f["rows"].values())
    if not total:
        return []
    languages = ", ".join(f"{name} {count / total:.0%}" for name, count in list(f["languages"].items())[:5])
    lines = [f"rows       {f['rows'].get('learnt', 0):,} to learn, {f['rows'].get('held out', 0):,} held out"]
    lines += [f"languages  {languages} (a guess, by script and common words)"]
    if f["tokens"]:
        t = f["tokens"]
        lengths = f"p50 {t['p50']:,}, p95 {t['p95']:,}, longest {t['longest']:,}"
        lines += [f"tokens     {lengths} of an example; data.max_length {checked.limit:,}"]
        lines += [f"learnt     {t['learnt']:,} of {t['all']:,} tokens ({t['learnt_share']:.0%})"]
    if f["labels"]:
        label, most = next(iter(f["labels"].items()))
        share = f["majority_share"]
        lines += [f"labels     {len(f['labels'])}; answering always {label!r} is right in {share:.1%} ({most:,} rows)"]
    return lines


def _verdict(checked: Checked) -> str:
    counted = checked.findings.counts.total()
    if checked.refused:
        return f"training would refuse this data: {_many(checked.findings.errors, 'error')}"
    return f"{_many(counted, 'warning')}; training would take the data" if counted else "nothing found"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _typed(fix: str, bare: bool) -> str:
    """Writes a key of the recipe as the command line takes it, where there is no recipe."""
    from finetune.recipe import override

    key, colon, value = fix.partition(": ")
    return override(f"{key}={value}") if bare and colon and key.startswith("data.") and key.count(".") == 1 else fix


def _one_line(text: str) -> str:
    return shown(text)
