"""A check as one HTML file: pictures and findings, nothing fetched, no script; what rows say is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.check.finding import CODES
from finetune.check.pictures import bars, histogram, share
from finetune.check.verb import Checked

SHOWN = 50
"""Findings of a kind on the page; the report has all."""

Picture = tuple[str, Markup, str]


def write_page(checked: Checked, recipe: str, report: str) -> str:
    """Writes the page.

    Args:
        checked: what was found.
        recipe: its name, as it was typed.
        report: the file that has every finding, or nothing.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    source = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    counts, figures = checked.findings.counts, checked.figures
    learnt, held = figures["rows"].get("learnt", 0), figures["rows"].get("held out", 0)
    severity = "error" if checked.refused else "warning" if counts else "good"
    verdict = {
        "error": f"Training would refuse this data: {checked.findings.errors:,} errors",
        "warning": f"Training would take it; {counts.total():,} warnings",
        "good": "Nothing found",
    }[severity]
    html = environment.from_string(source).render(
        recipe=recipe,
        rows=f"{learnt:,} rows to learn, {held:,} held out, from {', '.join(list(figures['sources'])[:4])}"
        if learnt
        else "no rows could be read",
        severity=severity,
        verdict=verdict,
        tiles=list(_tiles(checked)),
        pictures=list(_pictures(checked)),
        notes=checked.notes,
        kinds=list(_kinds(checked, report)),
    )
    return html.encode("utf-8", "replace").decode()  # half a character has no bytes


def _tiles(checked: Checked) -> Iterator[tuple[str, str]]:
    figures = checked.figures
    total = sum(figures["rows"].values())
    if not total:
        return
    if told := figures["tokens"]:
        yield f"{told['all']:,}", "tokens in all examples"
        yield f"{told['learnt_share']:.0%}", "of them learnt"
        yield f"{told['p50']:,} / {told['p95']:,}", "tokens of an example, p50 / p95"
    yield f"{figures['answer_characters']['p50']:,}", "characters of an answer, p50"
    if calls := figures["traits"]["calls"]:
        yield f"{calls / total:.0%}", "of rows call tools"
    if reasoning := figures["traits"]["reasoning"]:
        yield f"{reasoning / total:.0%}", "of rows reason"
    if share := figures["majority_share"]:
        yield f"{share:.1%}", "right by always giving the commonest answer"


def _pictures(checked: Checked) -> Iterator[Picture]:
    figures, findings = checked.figures, checked.findings
    if told := figures["tokens"]:
        beyond = (
            "" if checked.limit <= 1.5 * told["edges"][-1] else f"data.max_length is {checked.limit:,}, far beyond. "
        )
        if told["longest"] >= told["edges"][-1]:
            beyond += f"The last bar holds all longer ones, up to {told['longest']:,}."
        yield "Length of examples, tokens", histogram(told["edges"], told["counts"], checked.limit), beyond
        yield "Learnt tokens", share(told["learnt"], told["all"], ("learnt", "prompt")), ""
    if findings.counts:
        kinds = {code: "err" if findings.kept[code][0].severity == "error" else "over" for code in findings.counts}
        yield "Findings by kind", bars(findings.counts, kinds, "findings"), ""
    if figures["languages"]:
        words = "of answers, or of the whole row where they are labels; a guess by script and common words"
        yield "Languages", bars(figures["languages"], unit="rows"), words
    if findings.sizes:
        groups: Counter[str] = Counter()
        for size, count in sorted(findings.sizes.items()):
            groups[_size(size)] += count
        yield "Groups of duplicates, by size", bars(groups, unit="groups", ordered=False), ""
    if figures["labels"]:
        yield "Answers, as labels", bars(figures["labels"], unit="rows"), ""
    if len(figures["turns"]) > 1:
        turns = {f"{n} question{'s' * (n != '1')}": count for n, count in figures["turns"].items()}
        yield "Questions in a row", bars(turns, unit="rows", ordered=False), ""
    if len(figures["sources"]) > 1:
        yield "Sources", bars({Path(name).name: n for name, n in figures["sources"].items()}, unit="rows"), ""


def _size(rows: int) -> str:
    for most, name in ((2, "2 rows"), (3, "3 rows"), (5, "4 to 5 rows"), (10, "6 to 10 rows"), (100, "11 to 100 rows")):
        if rows <= most:
            return name
    return "over 100 rows"


def _kinds(checked: Checked, report: str) -> Iterator[dict[str, Any]]:
    found = checked.findings
    for code in [code for code in CODES if code in found.counts]:
        count, rows = found.counts[code], found.rows[code]
        kept = found.kept[code][:SHOWN]
        where = f"all stand in {report}" if report else "--report FILE writes them all"
        yield {
            "code": code,
            "title": CODES[code][0].upper() + CODES[code][1:],
            "severity": kept[0].severity,
            "count": f"{count:,}" + (f" · {rows:,} rows" if rows > count and not code.startswith("leak") else ""),
            "findings": kept,
            "more": f"and {count - len(kept):,} more; {where}" if count > len(kept) else "",
        }
