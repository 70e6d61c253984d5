"""The forms that a run's model has on the disk, each with a way to score it; first their hashes are compared."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from finetune import engine
from finetune.data import Example
from finetune.export import KINDS
from finetune.hardware import detect
from finetune.ledger.scoring import score_gguf, score_on_disk
from finetune.merge.changes import Changes
from finetune.merge.order import Order
from finetune.merge.weights import Weights
from finetune.model import Score
from finetune.model.roundtrip import quantised_weights
from finetune.run import Run, manifest, outputs
from finetune.shards import shards


@dataclass(frozen=True)
class Step:
    """One form of the model on its way from the base to what is served."""

    name: str
    weights: str
    """Their precision."""
    engine: str = ""
    num_bytes: int | None = None
    """On the disk."""
    score: Callable[[list[Example]], Score] | None = None
    """None if it cannot be scored here."""
    takes: str = ""
    """What has to be done so that it can."""


def find_steps(order: Order) -> list[Step]:
    """Lists the base, the model as it was trained, what was merged, and each GGUF.

    Raises:
        ArtifactError: a file is not the one that was proven.
    """
    device = torch.device("cuda", 0) if detect().device == "cuda" else torch.device("cpu")
    by = f"transformers, float32, {device.type}, from disk"
    base, run, told = order.base, order.run, manifest.read(order.run.manifest)

    def on_disk(name: str, precision: str, num_bytes: int, weights: Weights, beside: Changes | None = None) -> Step:
        return Step(name, precision, by, num_bytes, partial(score_on_disk, weights, order.plan, beside, device=device))

    merged = {folder: entry for entry in told["stages"] if entry["stage"] == "merge" for folder in _folders(run, entry)}
    found = [on_disk("base", "bf16", _size(base.folder), base), on_disk(*_as_trained(order))]
    for folder, entry in merged.items():
        away = f"mv {shlex.quote(str(folder))} {shlex.quote(f'{folder}-before')}"
        outputs.check(run, entry["outputs"], f"{away}   # and merge again, or do without")
        found.append(on_disk(_name(folder, entry), "bf16", _size(folder), Weights(folder)))
    if not merged:
        found.append(Step("merged", "bf16", takes=outputs.command("merge", run)))
    return [*found, *_ggufs(run, told)]


def _as_trained(order: Order) -> tuple[str, str, int, Weights, Changes | None]:
    """Gives the line of what was learnt: its name, the weights it was trained on or as, bytes, and how it is run."""
    tuned, folder, run = order.tuned, order.base.folder, order.run
    if tuned.beside is None:
        return "weights", "f32", _size(run.weights), tuned.weights, None
    quantised = quantised_weights(folder, order.plan)
    learnt = sum(file.stat().st_size for file in run.adapter.glob("*.safetensors"))
    weights = Weights(folder, quantised) if quantised else order.base
    return "adapter", "nf4" if quantised else "bf16", learnt, weights, tuned.beside


def _ggufs(run: Run, told: dict[str, Any]) -> Iterator[Step]:
    """Lists each GGUF of the model that an export left, the largest first; of two of the same bytes, one."""
    made = {digest: name for name, (digest, stage) in outputs.made_by(told).items() if stage == "export"}
    there = [
        (run.path / name, kind, digest)
        for digest, name in made.items()
        if (kind := _kind(name)) and (run.path / name).is_file()
    ]
    if not there:
        yield Step("gguf", "q4_k_m, q8_0", takes=outputs.command("export", run))
    for file, kind, digest in sorted(there, key=lambda each: -each[0].stat().st_size):
        size = file.stat().st_size
        if (by := engine.answering()) is None:
            yield Step("gguf", kind, num_bytes=size, takes=engine.GET_ONE)
            continue
        out = [] if file.parent == run.path / "gguf" else ["--out", str(file.parent)]
        outputs.check(run, {run.named(file): digest}, outputs.command("export", run, "--gguf", kind, *out))
        yield Step("gguf", kind, f"llama.cpp, {by}", size, partial(score_gguf, file))


def _kind(name: str) -> str | None:
    """Tells which kind of GGUF a file is by its name; None of an adapter's, of vision's, and of other files."""
    stem = Path(name).stem.lower()
    if not name.endswith(".gguf") or stem.startswith("mmproj-") or stem.endswith("-lora-f32"):
        return None
    return next((kind for kind in KINDS if stem.endswith(f"-{kind}")), None)


def _folders(run: Run, entry: dict[str, Any]) -> list[Path]:
    """Lists what a merge made; nothing if it was removed."""
    folders = {(run.path / name).parent for name in entry["outputs"]}
    return [folder for folder in folders if (folder / "config.json").is_file()]


def _name(folder: Path, entry: dict[str, Any]) -> str:
    """Names a merge: of several adapters as its folder is called."""
    if entry["inputs"].get("adapters"):
        return folder.name
    return "merged" if entry["inputs"].get("onto") == "bf16" else "merged onto dequantised"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in shards(folder))
