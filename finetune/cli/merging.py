"""`finetune merge`."""

from __future__ import annotations

import json
import math
import os
from enum import StrEnum
from pathlib import Path

import typer

from finetune import stopping
from finetune.cli.bar import Bar
from finetune.cli.quiet import quiet_libraries
from finetune.errors import RecipeError


class Onto(StrEnum):
    """What an adapter can be merged onto."""

    bf16 = "bf16"
    dequantised = "dequantised"


class Method(StrEnum):
    """How several adapters become one."""

    linear = "linear"
    ties = "ties"
    dare = "dare"


DENSITY = 0.5
"""Share that is kept where none is told; the papers keep 0.2 (TIES) and 0.1 to 0.9 (DARE)."""


def merge(
    run: str = typer.Argument(metavar="RUN[=WEIGHT]", help="The run folder, and a weight of its adapter. Default: 1."),
    others: list[str] = typer.Argument(
        None, metavar="RUN|ADAPTER[=WEIGHT]", help="Runs or adapters of the same base, to be merged with it."
    ),
    method: Method = typer.Option(
        Method.linear, "--method", help="The weighted sum, or each thinned first: TIES, or DARE (its sum is linear)."
    ),
    density: float | None = typer.Option(
        None, "--density", help=f"Share of each delta that ties and dare keep. Default: {DENSITY}.", show_default=False
    ),
    adapter_only: bool = typer.Option(
        False, "--adapter-only", help="Write the combined adapter, for plain PEFT, instead of a merged model."
    ),
    onto: Onto = typer.Option(
        Onto.bf16, "--onto", help="The published weights, or those that 4 bits restored in training."
    ),
    out: Path | None = typer.Option(
        None, "--out", metavar="FOLDER", help="The folder to make. Default: RUN/merged, or RUN/merged-with-OTHERS."
    ),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print what was proven as JSON instead of the folder."),
) -> None:
    """Merge what a run learnt, or several adapters, into its base, and prove it. The last line is the folder."""
    from finetune.run import open_run

    (path, weight), *rest = _weighed([run, *(others or [])])
    kept = _density(method, density)
    if adapter_only and onto is Onto.dequantised:
        where, why = "--adapter-only --onto dequantised", "an adapter is merged onto nothing"
        raise RecipeError("there is no such adapter", where=where, why=why, fix="leave one of the two out")
    with stopping.heard() as stop:
        opened = open_run(path)
        quiet_libraries()
        from finetune.merge import Mix, again, combine
        from finetune.merge import merge as merge_run

        mix = Mix(weight, tuple(rest), method.value, kept)
        folder = out or mix.folder(opened, "adapter" if adapter_only else "merged")
        stop.idle = again(opened, onto.value, folder, mix, adapter_only=adapter_only)  # ending loses nothing, ever
        bar = Bar(quiet)
        if adapter_only:
            entry = combine(opened, mix, out, bar.say)
        else:
            entry = merge_run(opened, onto.value, out, bar.say, bar.show, mix)
    holding = sum(claim["holds"] for claim in entry["claims"])
    bar.say(f"proven: {holding} of {len(entry['claims'])} claims hold, {entry['seconds']:,} s")
    print(json.dumps({"folder": str(folder), **entry}) if as_json else folder)


def _weighed(words: list[str]) -> list[tuple[Path, float]]:
    """Reads all adapters and their weights.

    Raises:
        RecipeError: a weight is not finite, or all are 0.
    """
    found = [_weighed_one(word) for word in words]
    if all(weight == 0 for _, weight in found):
        why, fix = "that is the base", f"{found[0][0]}=1"
        raise RecipeError("every adapter has the weight 0", where=" ".join(words), why=why, fix=fix)
    return found


def _weighed_one(word: str) -> tuple[Path, float]:
    """Reads PATH or PATH=WEIGHT; a path may hold =, so a folder that is called like the whole word is that folder.

    Raises:
        RecipeError: the weight is not finite.
    """
    path, _, number = word.rpartition("=")
    if not path or os.path.isdir(word):
        return Path(word), 1.0
    try:
        weight = float(number)
    except ValueError:
        return Path(word), 1.0
    if not math.isfinite(weight):
        raise RecipeError("a weight is a finite number", where=word, fix=f"{path}=1")
    return Path(path), weight


def _density(method: Method, told: float | None) -> float | None:
    """Gives the share that is kept, None where nothing is dropped.

    Raises:
        RecipeError: it is no share, or nothing is dropped.
    """
    if told is None:
        return None if method is Method.linear else DENSITY
    if method is Method.linear:
        why, fix = "linear adds up everything", "--method ties, or --method dare"
        raise RecipeError("linear has no density", where=f"--density {told}", why=why, fix=fix)
    if not 0 < told <= 1:
        why, fix = "it is the share of numbers that is kept: above 0, at most 1", f"--density {DENSITY}"
        raise RecipeError("there is no such density", where=f"--density {told}", why=why, fix=fix)
    return told
