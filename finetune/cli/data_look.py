"""`finetune data look`: what training learns of an example, token by token. It never imports torch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from finetune.cli.targets import check_target
from finetune.errors import ArtifactError, RecipeError

if TYPE_CHECKING:
    from finetune.data import Dataset
    from finetune.lens import Look, Shown, Step
    from finetune.recipe import Recipe


Side = Literal["train", "held-out", "left-out"]
Worst = Literal["truncated", "longest", "least-learnt"]

TITLE = ": what is learnt</title>"
"""What stands in each page that this command writes, and in nothing of somebody else."""

LEAST_COLUMNS = 20
"""Below that, lines are longer than the terminal is wide."""

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated.")
ROW = typer.Option(None, "--row", min=1, help="The example of this number, counted from 1. Default: the first.")
PLACE = typer.Option(None, "--place", metavar="FILE:LINE", help="The examples of this row.")
WORST = typer.Option(None, "--worst", help="The worst examples of a kind.")
STEP = typer.Option(None, "--step", min=1, help="The examples of this optimizer step as they lie in it, packs and all.")
COUNT = typer.Option(None, "--count", min=1, help="So many examples. Default: 1, or all of a row or a page.")
SIDE = typer.Option(None, "--side", help="Learnt, held out, or left out as too long. Default: learnt.")
HTML = typer.Option(None, "--html", metavar="FILE", help="Write one page of all examples, or of those chosen.")
IDS = typer.Option(False, "--ids", help="Show each token's id under it.")
SPACES = typer.Option(False, "--spaces", help="Show spaces as dots.")
TOKENIZER = typer.Option(
    None, "--tokenizer", metavar="FOLDER", help="tokenizer.json and chat_template.jinja, where the base is not here."
)
COLOR = typer.Option(None, "--color/--no-color", help="Default: in a terminal, unless NO_COLOR is set.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def look(
    recipe: Path = typer.Argument(help="The recipe; or a file or folder of rows alone."),
    row: int | None = ROW,
    place: str | None = PLACE,
    worst: Worst | None = WORST,
    step: int | None = STEP,
    count: int | None = COUNT,
    side: Side | None = SIDE,
    html: Path | None = HTML,
    ids: bool = IDS,
    spaces: bool = SPACES,
    tokenizer: Path | None = TOKENIZER,
    overrides: list[str] = SET,
    as_json: bool = JSON,
    color: bool | None = COLOR,
) -> None:
    """Show what training learns of an example, token by token."""
    _check_one(row=row, place=place, worst=worst, step=step)
    if step is not None:
        _check_whole(count=count, side=side)
    from finetune import lens

    wishes, dataset = _prepared(recipe, overrides, tokenizer)
    reader, limit = lens.Reader(dataset.renderer.vocabulary), wishes.data.max_length
    if html is not None:
        check_target("--html", html, recipe, wishes, TITLE)
    drawn = _look(color, ids, spaces)
    if step is not None:
        taken = lens.step_of(dataset, wishes, step)
        if html is not None:
            _write_page(html, wishes, dataset, taken.examples, step=taken)
        elif as_json:
            print(json.dumps(lens.told_step(taken, reader, limit), indent=1))
        else:
            print(lens.legend(drawn), lens.draw_step(taken, reader, limit, drawn), sep="\n\n")
        return
    if html is not None:
        chosen = row is not None or place is not None or worst is not None
        examples = _chosen(dataset, row, place, worst, count, side) if chosen else None
        _write_page(html, wishes, dataset, examples, side, count)
        return
    examples = _chosen(dataset, row, place, worst, count, side)
    if as_json:
        print(json.dumps([lens.told(shown, reader, limit) for shown in examples], indent=1))
    elif not examples:
        print(_nothing(dataset, worst, limit))
    else:
        blocks = [lens.draw(shown, reader, limit, drawn) for shown in examples]
        print(lens.legend(drawn), *blocks, sep="\n\n")


def _check_one(**choices: object) -> None:
    """Refuses two ways of choosing at once."""
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        words = " and ".join(f"--{name}" for name in given)
        why = "each says by itself which examples are shown"
        raise RecipeError("examples are chosen in one way", where=words, why=why, fix=f"leave out --{given[-1]}")


def _check_whole(**choices: object) -> None:
    """Refuses a part of a step: it is shown as it is learnt, or not at all."""
    for name, value in choices.items():
        if value is not None:
            why = "a step is learnt whole, and of what is to learn"
            raise RecipeError("a step is shown whole", where=f"--step and --{name}", why=why, fix=f"leave out --{name}")


def _prepared(recipe: Path, overrides: list[str], tokenizer: Path | None) -> tuple[Recipe, Dataset]:
    """Prepares the very Dataset that training gets.

    Raises:
        ArtifactError: neither the base nor a tokenizer is on disk.
    """
    from finetune.data import prepare
    from finetune.hub import locate
    from finetune.recipe import load_or_rows

    wishes = load_or_rows(recipe, overrides)
    base = tokenizer or locate(wishes.base, wishes.base_path, wishes.revision)
    if base is None:
        folder = f"{wishes.base.rpartition('/')[2]}-tokenizer"
        revision = f" --revision {wishes.revision}" if wishes.revision else ""
        files = "tokenizer.json tokenizer_config.json chat_template.jinja"
        get = f"hf download {wishes.base} {files}{revision} --local-dir {shlex.quote(folder)}"
        raise ArtifactError(
            f"the tokenizer of {wishes.base} is not on disk",
            where=wishes.where("base"),
            why="without it nobody knows the tokens; its files and its template are enough, no weights are wanted",
            fix=f"{get} && finetune data look {wishes.words()} --tokenizer {shlex.quote(folder)}",
        )
    return wishes, prepare(wishes, base)


def _chosen(
    dataset: Dataset, row: int | None, place: str | None, worst: Worst | None, count: int | None, side: Side | None
) -> list[Shown]:
    from finetune import lens

    if place is not None:
        return lens.by_place(dataset, [side] if side else lens.SIDES, place, count)
    if worst is not None:
        return lens.worst(dataset, _sides(side), worst, count or 1)
    return lens.by_row(dataset, side if side else "train", row or 1, count or 1)


def _nothing(dataset: Dataset, worst: Worst | None, limit: int) -> str:
    """Says that there is no example of a kind."""
    if worst != "truncated":
        return "there is no such example"
    return f"nothing was cut: the longest example has {dataset.counts.longest:,} of {limit:,} tokens"


def _sides(side: Side | None) -> list[Side]:
    """Where the worst are looked for: what is too long to be learnt was meant to be."""
    return [side] if side else ["train", "left-out"]


def _look(color: bool | None, ids: bool, spaces: bool) -> Look:
    """Finds out what the terminal can show. `NO_COLOR`: no-color.org."""
    from finetune.lens import Look
    from finetune.lens.styles import ASCII, UNICODE

    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if color is None:
        color = terminal and not os.environ.get("NO_COLOR")
    marks = UNICODE if sys.stdout.encoding.lower().startswith("utf") else ASCII
    width = max(LEAST_COLUMNS, shutil.get_terminal_size((Look.width, 24)).columns)
    return Look(width, color, ids, spaces, marks)


def _write_page(
    file: Path,
    wishes: Recipe,
    dataset: Dataset,
    examples: list[Shown] | None,
    side: Side | None = None,
    count: int | None = None,
    step: Step | None = None,
) -> None:
    """Writes the page of these examples, or of all."""
    from finetune import atomic, lens

    sides: Sequence[Side] = [side] if side else lens.SIDES
    whole = sum(len(lens.examples_of(dataset, each)) for each in sides) if examples is None else len(examples)
    taken = min(whole, count or lens.MOST_EXAMPLES) if examples is None else whole
    every = lens.everything(dataset, sides) if examples is None else examples
    facts = {"recipe": wishes.name, "base": wishes.base, "max_length": wishes.data.max_length, "of": whole}
    if step is not None:
        facts |= {"step": step.number, "packs": [len(pack) for pack in step.packs] if step.packed else []}
    written = lens.page(islice(every, taken), lens.Reader(dataset.renderer.vocabulary), facts)
    with atomic.refusal_told(file, "--html look.html"):
        atomic.write_text(file, written)
    some = "" if taken == whole else f" of {whole:,}; --count {whole} writes all"
    print(f"wrote {file}, {len(written.encode()) / 1e6:.1f} MB: {taken:,} examples{some}")
