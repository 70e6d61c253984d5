"""`finetune plan`: what will happen, byte by byte, before anything is downloaded. It never imports torch."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finetune.cli.several import PROCESSES
from finetune.errors import DoesNotFit, FinetuneError, Problem, RecipeError

if TYPE_CHECKING:
    from finetune.data import Counts, Dataset
    from finetune.hardware import Hardware
    from finetune.plan import Plan, Rejected
    from finetune.recipe import Recipe
    from finetune.shape import ModelShape

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated.")
GPU = typer.Option(None, "--gpu", metavar="CARD", help="Plan for this card: 24GB, rtx4090, a10, h100x8, …, cpu.")
NODES = typer.Option(1, "--nodes", min=1, max=128, help="So many machines, each with the GPUs of --gpu.")
NETWORK = typer.Option(
    None, "--network", metavar="LINK", help="Between machines: ib400, 100gbe, 25gbe, 10gbe, site-1g, …"
)
HOST = typer.Option(None, "--host", metavar="SIZE", help="With so much host memory, such as 64GB.")
PICTURE = typer.Option(None, "--picture", metavar="FILE", help="Draw the memory by part: a .png or .svg file.")
WHY_NOT = typer.Option([], "--why-not", metavar="KEY=VALUE", help="Say what would follow from this; may be repeated.")
EXPLAIN = typer.Option(False, "--explain", help="List what was rejected, and what each would save or cost.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def plan(
    recipe: Path = typer.Argument(help="The recipe."),
    overrides: list[str] = SET,
    gpu: str | None = GPU,
    nodes: int = NODES,
    network: str | None = NETWORK,
    host: str | None = HOST,
    processes: int | None = PROCESSES,
    as_json: bool = JSON,
    explain: bool = EXPLAIN,
    why_not: list[str] = WHY_NOT,
    picture: Path | None = PICTURE,
) -> None:
    """Print what training would do and whether it fits, without torch, a download or a GPU."""
    from finetune.cli import plan_page
    from finetune.plan import check_fits, make_plan

    hardware = _hardware(gpu, nodes, network, host, processes)
    wishes, shape, counts, dataset = _read(recipe, overrides)
    made = make_plan(wishes, shape, hardware, counts)
    if picture is not None:
        _draw(made, picture)
    told = asdict(made)
    if explain:
        told["rejected"] = [asdict(each) for each in _rejected(wishes, shape, hardware, counts)]
    if why_not:
        told["why_not"] = {word: _why_not(recipe, overrides, word, made, hardware) for word in why_not}
    if as_json:
        print(json.dumps(told, indent=2))
    elif why_not:
        print("\n".join(f"{word}: {answer}" for word, answer in told["why_not"].items()))
    else:
        print(plan_page.page(made, counts, dataset.notes if dataset else (), _bar()))
        if explain:
            print(plan_page.rejected(told["rejected"], gpu=bool(made.gpu)))
    if not why_not:  # a question that was answered is no failure
        check_fits(made, wishes)


def _hardware(gpu: str | None, nodes: int, network: str | None, host: str | None, processes: int | None) -> Hardware:
    """The machine, or the machines that the flags wish for."""
    from finetune.hardware import detect, wished, with_host, with_network, with_nodes, with_processes

    hardware = wished(gpu) if gpu is not None else detect()
    if processes is not None:
        hardware = with_processes(hardware, processes)
    if nodes > 1:
        hardware = with_nodes(hardware, nodes)
    if network is not None:
        hardware = with_network(hardware, network)
    return hardware if host is None else with_host(hardware, host)


def _read(recipe: Path, overrides: list[str]) -> tuple[Recipe, ModelShape, Counts, Dataset | None]:
    from finetune.data import count_rows, prepare
    from finetune.hub import locate
    from finetune.recipe import load
    from finetune.shape import read_shape

    wishes = load(recipe, overrides)
    base = locate(wishes.base, wishes.base_path, wishes.revision)
    dataset = prepare(wishes, base) if base else None
    counts = dataset.counts if dataset else count_rows(wishes)
    return wishes, read_shape(wishes.base, base), counts, dataset


def _bar() -> str:
    """The character of which bars are made: a block, or what every terminal has."""
    return "▇" if sys.stdout.encoding.lower().startswith("utf") else "#"


def _rejected(wishes: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> list[Rejected]:
    from finetune.plan import decide, explain, room_of

    chosen, found = decide(wishes, shape, hardware, counts)
    return explain(wishes, chosen, found, room_of(wishes, hardware))


def _why_not(recipe: Path, overrides: list[str], word: str, made: Plan, hardware: Hardware) -> str:
    """Plans the recipe with one more word, and says what came of it."""
    from finetune.cli.plan_page import compared
    from finetune.plan import make_plan

    try:
        wishes, shape, counts, _ = _read(recipe, [*overrides, word])
    except FinetuneError as error:
        raise type(error).of(_as_typed(problem, word) for problem in error.problems) from None
    try:
        other = make_plan(wishes, shape, hardware, counts)
    except RecipeError as error:
        return "\n".join(f"{p.what}: {p.why}\n  instead  {p.fix}" for p in error.problems)
    return compared(made, other)


def _as_typed(problem: Problem, word: str) -> Problem:
    """Tells of a word that was typed after --why-not, and read as an override."""
    if not problem.where.startswith("--set ") or word not in problem.where:
        return problem
    return replace(
        problem, where=problem.where.replace("--set ", "--why-not ", 1), fix=problem.fix.replace("--set ", "--why-not ")
    )


def _draw(made: Plan, picture: Path) -> None:
    from finetune.plan.picture import FORMATS, draw_memory

    if picture.suffix.lower() not in FORMATS:
        why = f"{picture.suffix or 'no suffix'} is not one of {', '.join(FORMATS)}"
        raise RecipeError(
            "a picture is a PNG or an SVG", where=f"--picture {picture}", why=why, fix="--picture plan.png"
        )
    try:
        draw_memory(made, picture)
    except OSError as error:
        why = error.strerror or str(error)
        raise DoesNotFit(
            "the picture cannot be written", where=str(picture), why=why, fix="--picture plan.png"
        ) from None
    print(f"drew {picture}", file=sys.stderr)
