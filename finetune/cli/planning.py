"""`finetune plan`: what will happen, byte by byte, before anything is downloaded. It never imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finetune.errors import DoesNotFit, RecipeError

if TYPE_CHECKING:
    from finetune.data import Counts, Dataset
    from finetune.hardware import Hardware
    from finetune.plan import Plan
    from finetune.recipe import Recipe
    from finetune.shape import ModelShape

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated.")
GPU = typer.Option(None, "--gpu", metavar="CARD", help="Plan for this card: 24GB, rtx4090, a10, h100x8, …, cpu.")
PICTURE = typer.Option(None, "--picture", metavar="FILE", help="Draw the memory by part: a .png or .svg file.")
WHY_NOT = typer.Option(None, "--why-not", metavar="KEY=VALUE", help="Say why the plan does not do this.")
EXPLAIN = typer.Option(False, "--explain", help="List what was rejected, and what each would save or cost.")
JSON = typer.Option(False, "--json", help="Print JSON.")

GIB = 2**30


def plan(
    recipe: Path = typer.Argument(help="The recipe."),
    overrides: list[str] = SET,
    gpu: str | None = GPU,
    as_json: bool = JSON,
    explain: bool = EXPLAIN,
    why_not: str | None = WHY_NOT,
    picture: Path | None = PICTURE,
) -> None:
    """Print what training would do and whether it fits, without torch, a download or a GPU."""
    from finetune.hardware import detect, wished
    from finetune.plan import check_fits, make_plan

    hardware = wished(gpu) if gpu is not None else detect()
    wishes, shape, counts, dataset = _read(recipe, overrides)
    made = make_plan(wishes, shape, hardware, counts)
    if why_not is not None:
        print(_why_not(recipe, overrides, why_not, made, hardware))
        return
    if picture is not None:
        _draw(made, picture)
    if as_json:
        print(made.to_json(), end="")
    else:
        _print(made, counts, dataset)
        if explain:
            _explain(wishes, shape, hardware, counts)
    check_fits(made, wishes)


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


def _print(made: Plan, counts: Counts, dataset: Dataset | None) -> None:
    for name, told in _rows(made, counts):
        print(f"{name:<13}{told}")
    batch = f"{made.choices.micro_batch} x {made.length:,} tokens"
    print(f"\nmemory       of {made.gpu or 'the host'} in a micro-batch of {batch}, when most is held:")
    print(f"             {made.peak}")
    for name, size in made.parts.items():
        print(f"  {name:<26}{size / GIB:>8.2f} GiB  {'▇' * round(40 * size / made.gpu_bytes)}")
    verdict = "fits" if made.fits else "DOES NOT FIT"
    print(f"  {'peak':<26}{made.peak_bytes / GIB:>8.2f} GiB  of {made.gpu_bytes / GIB:.2f}: {verdict}")
    for note in (*made.notes, *(dataset.notes if dataset else ())):
        print(f"note: {note}")


def _rows(made: Plan, counts: Counts) -> Iterator[tuple[str, str]]:
    unknown = "unknown until the base's tokenizer is on disk"
    tokens = f"{made.tokens:,} an epoch, {made.learnt_tokens:,} of them learnt" if made.tokens else unknown
    yield "base", made.base + (f" @ {made.revision[:12]}" if made.revision else "")
    yield "method", f"{made.method}, {made.quantisation or 'not quantised'}, {made.dtype} on {made.gpu or made.device}"
    yield "text weights", f"{made.total_parameters:,}"
    yield "trained", f"{made.trainable_parameters:,} ({made.trainable_parameters / made.total_parameters:.2%})"
    yield "adapters", _adapters(made)
    yield "examples", f"{made.examples:,} to learn, {counts.held_out_examples:,} held out"
    yield "tokens", tokens
    yield "steps", f"{made.steps:,}: {made.steps_per_epoch:,} in an epoch, {made.warmup_steps} to warm up"
    yield "checkpoints", f"every {made.save_every} step{'s' if made.save_every > 1 else ''}, and each epoch"
    choices = made.choices
    yield "step", f"{choices.micro_batch} x {choices.accumulation} examples"
    yield "levers", ", ".join(_levers(made))
    yield "", made.why
    yield (
        "time",
        f"about {_clock(made.run_seconds)}, {made.step_seconds:,.1f} s a step, {made.energy_kwh:.2f} kWh (a roofline)",
    )
    yield "host memory", f"{made.host_bytes / GIB:.1f} GiB"
    yield "disk", ", ".join(f"{stage} {_size(size)}" for stage, size in made.disk_bytes.items())


def _levers(made: Plan) -> Iterator[str]:
    from finetune.levers import POSITIONS

    for name in POSITIONS:
        yield f"{name} {getattr(made.choices, name)}"


def _explain(wishes: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> None:
    from finetune.plan import decide, explain, room_of

    chosen, found = decide(wishes, shape, hardware, counts)
    print(f"\nrejected, of {len(found):,} sets of levers, each one change away:")
    for line in explain(chosen, found, room_of(wishes, hardware)):
        print(f"  {line}")


def _why_not(recipe: Path, overrides: list[str], word: str, made: Plan, hardware: Hardware) -> str:
    """Plans the recipe with one more word, and says what came of it."""
    from finetune.plan import make_plan

    wishes, shape, counts, _ = _read(recipe, [*overrides, word])
    try:
        other = make_plan(wishes, shape, hardware, counts)
    except RecipeError as error:
        return "\n".join(f"{word}: {p.what}: {p.why}\n  instead  {p.fix}" for p in error.problems)
    if asdict(other) == asdict(made):
        return f"{word}: that is what the plan does"
    if not other.fits:
        short = (other.peak_bytes - other.gpu_bytes) / GIB
        host = f"needs {other.host_bytes / GIB:.1f} GiB of host memory"
        told = f"does not fit: {short:.2f} GiB too much on {other.gpu or 'the host'}" if short > 0 else host
        return "\n".join([f"{word}: {told}", *(f"  with     {words}" for words in other.proposals)])
    slower = other.run_seconds / made.run_seconds - 1
    bytes_told = f"{(other.peak_bytes - made.peak_bytes) / GIB:+.2f} GiB at the peak"
    changed = [f"{k} {v}" for k, v in asdict(other.choices).items() if v != asdict(made.choices)[k]]
    levers = f"; the plan becomes {', '.join(changed)}" if changed else ""
    return f"{word}: it fits, {bytes_told}, {slower:+.1%} time{levers}"


def _draw(made: Plan, picture: Path) -> None:
    from finetune.plan.picture import FORMATS, draw_memory

    if picture.suffix.lower() not in FORMATS:
        why = f"{picture.suffix or 'no suffix'} is not one of {', '.join(FORMATS)}"
        fix = f"--picture {picture.with_suffix('.png')}"
        raise RecipeError("a picture is a PNG or an SVG", where=f"--picture {picture}", why=why, fix=fix)
    try:
        draw_memory(made, picture)
    except OSError as error:
        why = error.strerror or str(error)
        raise DoesNotFit(
            "the picture cannot be written", where=str(picture), why=why, fix="--picture plan.png"
        ) from None


def _adapters(made: Plan) -> str:
    if not made.num_targets:
        return "none: every text weight is trained"
    families = ", ".join(f"{family} {number}" for family, number in made.num_targets.items())
    kind = {"dora": "DoRA, ", "rslora": "rsLoRA, "}.get(made.variant, "")
    return f"{kind}rank {made.rank}, alpha {made.alpha:g} on {sum(made.num_targets.values())} layers ({families})"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
