"""`finetune ledger`: the held-out loss of base, adapter, merged model and each GGUF, and what each keeps of the tuning.

All are scored on the same rows, which are those that training held out, token by token. Each line says by which engine
and on which weights; a line that could not be measured says what it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from finetune import __version__
from finetune.data import Example, prepare
from finetune.errors import DataError
from finetune.export import KINDS, engine
from finetune.hardware import detect
from finetune.ledger import intervals
from finetune.ledger.advice import advice
from finetune.ledger.drawing import draw
from finetune.ledger.scoring import score_gguf, score_on_disk
from finetune.merge.order import Order, take
from finetune.merge.weights import Weights
from finetune.model import Score
from finetune.model.roundtrip import quantised_weights
from finetune.run import Claim, Entry, Run, anew, atomic, claim, locked, manifest, outputs
from finetune.shards import shards

Say = Callable[[str], None]

MOST_TOKENS = 16_384
"""Of held-out examples that are scored, unless it is said otherwise."""

NO_ENGINE = "pip install llama-cpp-python   # scores GGUF files; compiles for some minutes"


@dataclass(frozen=True)
class Step:
    """One form of the model on its way from the base to what is served."""

    name: str
    weights: str
    """Their precision."""
    engine: str = ""
    num_bytes: int | None = None
    """On the disk."""
    score: Score | None = None
    """None if it was not measured."""
    takes: str = ""
    """What has to be done so that it can be measured."""


def ledger(run: Run, most_tokens: int, say: Say) -> dict[str, Any]:
    """Scores every form of a run's model that is there, writes ledger.json and ledger.png, and gives what is in them.

    Args:
        run: that finished.
        most_tokens: of the held-out examples that are scored; one at least is.
        say: takes a line for the user.

    Raises:
        ArtifactError: run, adapter, base, or a file that was proven is not what it was.
        DataError: nothing is held out, or the rows are not those of the training.
        ProofFailed: llama.cpp cannot run a file.
        RunLocked: another process works in the run.
    """
    began = time.monotonic()
    with locked(run):
        order = take(run, "bf16")
        examples, of = _held_out(order, most_tokens)
        tokens, learnt = sum(map(len, examples)), sum(sum(example.learnt[1:]) for example in examples)
        say(f"{len(examples)} of {of} held-out examples: {tokens:,} tokens, of which {learnt:,} are scored")
        steps = []
        for step in _steps(order, examples):
            steps.append(step)
            figure = f"{step.score.loss:.4f}" if step.score else f"not measured: {step.takes}"
            say(f"{step.name} ({step.weights})  {figure}")
        lines = _lines(steps)
        told: dict[str, Any] = {
            "run": run.name,
            "examples": {"scored": len(examples), "of": of, "tokens": tokens, "learnt": learnt},
            "unit": "nats a learnt token",
            "intervals": "95 %, percentile bootstrap over examples, paired",
            "steps": lines,
            "advice": advice(run, lines, len(examples)),
        }
        atomic.write_json(run.ledger, told)
        draw(told, run.ledger_plot)
        manifest.add(run.manifest, _entry(order, told, began))
    return told


def _held_out(order: Order, most_tokens: int) -> tuple[list[Example], int]:
    """Gives the held-out examples in their order as far as the tokens go, and how many there are.

    Raises:
        DataError: there are none, or rows or template are not those of the training.
    """
    dataset = prepare(order.recipe, order.base.folder)
    where, fix = order.recipe.data.train, f"put the rows back as they were, or train anew: {anew(order.run)}"
    if dataset.sha256 != manifest.read_begun(order.run.manifest)["contract"]["data"]:
        why = "what was held out is not known any more"
        raise DataError("the rows are not those of the training", where=str(where), why=why, fix=fix)
    if not dataset.held_out:
        why, fix = "every row was learnt", f"train anew with rows held out: {anew(order.run)} --set data.eval=0.1"
        raise DataError("this run held nothing out", where=str(order.run.recipe), why=why, fix=fix)
    taken: list[Example] = []
    for example in dataset.held_out:
        if taken and sum(map(len, taken)) + len(example) > most_tokens:
            break
        taken.append(example)
    return taken, len(dataset.held_out)


def _steps(order: Order, examples: list[Example]) -> Iterator[Step]:
    """Measures the base, the adapter on the weights that it was trained on, what was merged, and each GGUF."""
    device = torch.device("cuda", 0) if detect().device == "cuda" else torch.device("cpu")
    by = f"transformers, float32, {device.type}, from disk"
    base, plan, run = order.base, order.plan, order.run
    quantised = quantised_weights(base.folder, plan)
    as_trained = Weights(base.folder, quantised) if quantised else base
    size, learnt = _size(base), sum(file.stat().st_size for file in run.adapter.glob("*.safetensors"))
    precision = "nf4" if quantised else "bf16"
    yield Step("base", "bf16", by, size, score_on_disk(base, plan, None, examples, device))
    yield Step("adapter", precision, by, learnt, score_on_disk(as_trained, plan, order.adapter, examples, device))
    told = manifest.read(run.manifest)
    merged = 0
    for onto in ("bf16", "dequantised"):
        entry = outputs.last(told, "merge", onto=onto, adapters=None)
        if entry is None or (folder := _folder(run, entry)) is None:
            continue
        outputs.check(run, entry["outputs"], outputs.command("merge", run))
        weights, merged = Weights(folder), merged + 1
        name = "merged" if onto == "bf16" else "merged onto dequantised"
        yield Step(name, "bf16", by, _size(weights), score_on_disk(weights, plan, None, examples, device))
    if not merged:
        yield Step("merged", "bf16", takes=outputs.command("merge", run))
    yield from _ggufs(run, told, examples)


def _ggufs(run: Run, told: dict[str, Any], examples: list[Example]) -> Iterator[Step]:
    """Measures each GGUF that an export left, the largest first."""
    made = {name: digest for name, (digest, stage) in outputs.made_by(told).items() if stage == "export"}
    kinds = {name: Path(name).stem.removeprefix(f"{run.name}-").lower() for name in made if name.endswith(".gguf")}
    there = [(run.path / name, kind) for name, kind in kinds.items() if kind in KINDS and (run.path / name).exists()]
    if not there:
        yield Step("gguf", "q4_k_m, q8_0", takes=outputs.command("export", run))
    for file, kind in sorted(there, key=lambda pair: -pair[0].stat().st_size):
        size = file.stat().st_size
        if not engine.is_installed():
            yield Step("gguf", kind, num_bytes=size, takes=NO_ENGINE)
            continue
        outputs.check(run, {run.named(file): made[run.named(file)]}, outputs.command("export", run, "--gguf", kind))
        by = f"llama.cpp, llama-cpp-python {version('llama-cpp-python')}"
        yield Step("gguf", kind, by, size, score_gguf(file, examples))


def _lines(steps: list[Step]) -> list[dict[str, Any]]:
    """Gives what is told of each step: loss, distance from the adapter as trained, share of the tuning kept."""
    base, tuned = (step.score for step in steps[:2])
    assert base is not None
    assert tuned is not None
    lines = []
    for step in steps:
        line: dict[str, Any] = {"name": step.name, "weights": step.weights, "engine": step.engine}
        line |= {"bytes": step.num_bytes, "not_measured": step.takes or None}
        if step.score is not None:
            share = intervals.kept(step.score, base, tuned)
            line["loss"] = asdict(intervals.loss(step.score))
            line["from_adapter"] = asdict(intervals.difference(step.score, tuned))
            line["kept"] = asdict(share) if share else None
        lines.append(line)
    return lines


def _folder(run: Run, entry: dict[str, Any]) -> Path | None:
    """Finds what a merge made; None if it was removed."""
    folders = {(run.path / name).parent for name in entry["outputs"]}
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _size(weights: Weights) -> int:
    return sum(file.stat().st_size for file in shards(weights.folder))


def _entry(order: Order, told: dict[str, Any], began: float) -> Entry:
    run = order.run
    claims: list[Claim] = []
    for line in told["steps"]:
        of = line["name"] if line["name"] != "gguf" else line["weights"]
        if "loss" in line:
            claims.append(claim(f"{of}: held-out loss", round(line["loss"]["value"], 4)))
        if line.get("kept") and of not in ("base", "adapter"):
            claims.append(claim(f"{of}: share of the tuning's effect that it keeps", round(line["kept"]["value"], 4)))
    return Entry(
        stage="ledger",
        inputs={**order.inputs, "examples": told["examples"]},
        outputs={run.named(file): atomic.sha256(file) for file in (run.ledger, run.ledger_plot)},
        claims=claims,
        versions={"finetune": __version__, **{name: version(name) for name in ("torch", "transformers")}},
        seconds=round(time.monotonic() - began, 1),
        finished=manifest.now(),
    )
