"""`finetune merge`: the base with what was trained in it, from disk to disk, proven before it gets its name.

The published shards are copied; only tensors that were trained are others. Nothing is loaded and saved again by
a library, for that would lose vision and multi-token prediction. A kill at any instant loses one shard's work.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from finetune import __version__, host
from finetune.errors import DoesNotFit
from finetune.merge.changes import experts_in
from finetune.merge.comparing import compare_bytes, compare_files
from finetune.merge.copying import Rows, changed_in, write_file
from finetune.merge.finishing import check_name, finished, publish
from finetune.merge.journal import Journal
from finetune.merge.mix import ALONE, Mix
from finetune.merge.order import Onto, Order, again, take
from finetune.merge.parts import described
from finetune.merge.probing import MOST_ROUNDINGS, probe
from finetune.merge.prompts import read_prompts
from finetune.merge.proof import MOST_SHARE, Proven, claims_of, compare_answers
from finetune.merge.trained import Trained, compare_trained
from finetune.merge.weights import Weights
from finetune.run import Claim, Entry, Run, atomic, claim, locked, manifest
from finetune.shards import Stored, shards

Say = Callable[[str], None]

Progress = Callable[[str, int, int], None]
"""Is told what is done, the bytes done so far, and those to be done in all."""

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")

ROOM_BYTES = 2**20
"""Beside the files: the journal, and what a file system takes for itself."""


@dataclass(frozen=True)
class Told:
    """Who hears of the work."""

    say: Say
    progress: Progress


def merge(run: Run, onto: Onto, out: Path | None, say: Say, progress: Progress, mix: Mix = ALONE) -> dict[str, Any]:
    """Merges a run's adapter, several as one, or all its weights, into its base, and gives the manifest entry.

    It goes on where an interrupted merge was.

    Args:
        run: that finished.
        onto: the published weights, or what 4 bits restored of them in training.
        out: the folder to make; without one it lies in the run: `merged`, or with the others' names behind.
        say: takes a line for the user.
        progress: is told after each piece.
        mix: what becomes one with the run's adapter.

    Raises:
        ArtifactError: run, base or what was learnt is not what it was, or something is in the place of the folder.
        DoesNotFit: the disk is full, or will be.
        ProofFailed: what was made is not what was trained; it keeps its `.partial` name.
        RunLocked: another process works in the run.
    """
    began, out = time.monotonic(), Path(os.path.normpath(out or mix.folder(run, "merged")))
    check_name(out)
    told = Told(say, progress)
    with locked(run):
        journal = Journal(out)
        journal.tidy()
        asked = {"onto": onto, **described(run, mix)}
        if (entry := finished(run, "merge", asked, journal, say)) is not None:
            return entry
        order = take(run, onto, mix)
        fix = f"give another one: {again(run, onto, out.with_name(f'{out.name}-2'), mix)}"
        with atomic.refusal_told(out, fix), atomic.full_disk_told(journal.model, then=again(run, onto, out, mix)):
            _check_room(order, journal)
            if journal.open(order.identity):
                say(f"going on in {journal.folder}: what is there is verified first")
            copied = _write(order, journal, told)
            journal.proven(_prove(order, journal, told, began, copied))
            return publish(run, journal)


def _check_room(order: Order, journal: Journal) -> None:
    """Compares what is to be written with the disk.

    Raises:
        DoesNotFit: it has too little room.
    """
    whole = sum(file.stat().st_size for file in (*shards(order.base.folder), *order.others)) + ROOM_BYTES
    needed, free = max(0, whole - atomic.taken_bytes(journal.folder)), host.disk_free_bytes(journal.out.parent)
    if free < needed:
        raise DoesNotFit(
            "the disk has too little room for the merged model",
            where=str(journal.out.parent),
            why=f"{needed:,} bytes are to be written, {free:,} are free",
            fix=f"free {needed - free:,} bytes, or name a folder on a larger disk by --out",
        )


def _write(order: Order, journal: Journal, told: Told) -> float:
    """Writes the files that are not there yet, and gives the seconds that it took."""
    began, base = time.monotonic(), order.base
    files = [*shards(base.folder), *order.others]
    done, whole = 0, sum(file.stat().st_size for file in files)
    rows: dict[Stored, Rows] = {tensor: partial(_rows, order, tensor) for tensor in order.touched}

    def count(size: int) -> None:
        nonlocal done
        done += size
        told.progress("merging", done, whole)

    for file in files:
        if journal.is_whole(file.name):
            count(file.stat().st_size)
            continue
        changed = changed_in(file, rows) if file in shards(base.folder) else {}
        target = journal.model / file.name
        journal.finished(file.name, write_file(file, target, changed, count))
    for leftover in journal.model.iterdir():
        if leftover.name not in journal.files:  # of a process that was killed while it wrote
            leftover.unlink()
    return time.monotonic() - began


def _rows(order: Order, tensor: Stored) -> Iterator[torch.Tensor]:
    """Gives a tensor's new rows."""
    base, name = order.base, order.base.parts[tensor].name
    change = order.changes.change(name, experts_in(name, base.parameters)) if order.touched[tensor] else None
    for first, rows in base.pieces(tensor):
        yield change.apply(first, rows) if change else rows


def _prove(order: Order, journal: Journal, told: Told, began: float, copied: float) -> Entry:
    """Compares bytes, weights and answers with those of base and run.

    Raises:
        ProofFailed: they are not what they should be.
    """
    return Entry(
        stage="merge",
        inputs=order.inputs,
        outputs={order.run.named(journal.out / name): digest for name, digest in sorted(journal.files.items())},
        claims=[*_claims(order, journal, told), claim("seconds of writing", round(copied, 1), None)],
        versions={
            "finetune": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        seconds=round(time.monotonic() - began, 1),
        finished=manifest.now(),
    )


def _claims(order: Order, journal: Journal, told: Told) -> list[Claim]:
    base, files = order.base.folder, shards(order.base.folder)
    done, whole = 0, sum(file.stat().st_size for file in files) + sum(tensor.num_bytes for tensor in order.touched)

    def count(size: int) -> None:
        nonlocal done
        done += size
        told.progress("comparing", done, whole)

    merged = Weights(journal.model)
    same = compare_bytes(base, journal.model, order.touched, journal.files, count)
    compare_files(order.others, journal.model, journal.files)
    of_weights, unchanged = _compare_weights(order, merged, count)
    prompts = read_prompts(order.recipe, base)
    proven = compare_answers(order.tuned, order.base, merged, order.plan, prompts, told.say)
    kept = len(merged.tensors) - len(order.touched)
    untouched = claim("tensors that were not trained, the base's bit for bit", same, kept)
    for note in _notes(order, unchanged, proven):
        told.say(f"note: {note}")
    return [untouched, *of_weights, *claims_of(proven, prompts)]


def _compare_weights(
    order: Order, merged: Weights, count: Callable[[int], None]
) -> tuple[list[Claim], tuple[str, ...]]:
    """Compares every tensor that was trained, and gives the names of those that came out as the base's."""
    if isinstance(order.changes, Trained):
        unchanged = compare_trained(order.base, merged, order.changes, order.touched, count)
        whole = len(order.touched)
        return [
            claim("trained tensors, each number the trained one rounded once to the base's dtype", whole, whole),
            claim("of which differ from the base's", whole - len(unchanged), whole),
        ], unchanged
    probed = probe(order.base, merged, order.changes, order.touched, count)
    return [
        claim("tensors with an adapter that differ from the base's", probed.changed, sum(order.touched.values())),
        claim("mean square error of the worst tensor, over that of rounding", probed.most_roundings, MOST_ROUNDINGS),
    ], probed.unchanged


def _notes(order: Order, unchanged: tuple[str, ...], proven: Proven) -> Iterator[str]:
    if unchanged:
        yield (
            f"{len(unchanged)} of the tensors came out as the base's, first {unchanged[0]}: "
            "their tuning is smaller than bfloat16 tells apart"
        )
    if proven.share > MOST_SHARE:
        full = isinstance(order.changes, Trained)
        whole = f"{order.run.weights} holds all of it" if full else "serving the adapter beside its base loses nothing"
        yield (
            f"rounding moves the answers by {proven.share:.0%} of what the tuning did: hardly more was learnt than "
            f"bfloat16 can hold; {whole}"
        )
