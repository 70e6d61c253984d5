"""A small run whose every figure is written by hand, for the tests of its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.data import Counts
from finetune.hardware import wished
from finetune.plan import make_plan
from finetune.recipe import dump, load
from finetune.run import Entry, Run, atomic, claim, create, manifest, metrics
from finetune.shape import read_shape

RECIPE = "base: Qwen/Qwen3.6-27B\nrevision: 6a9e13b\ndata: {train: rows.jsonl}\n"

HOSTILE = "</style><script>alert(1)</script>\u202e"

BEGUN = {
    "serving": {"thinking": False, "preserve_thinking": False, "system": None},
    "contract": {"wishes": {}, "device": "cuda", "versions": {}, "threads": 1}
    | dict.fromkeys(("plan", "data", "template", "tokenizer", "base"), "ab" * 32),
}
COUNTS = Counts(
    rows=90,
    examples=90,
    held_out_rows=10,
    held_out_examples=10,
    tokens=20_000,
    learnt_tokens=5_000,
    longest=512,
    longest_held_out=300,
    dropped=4,
)


def begun(folder: Path) -> Run:
    """Makes a run of the 27B that has not taken a step."""
    file = folder / "legal.yaml"
    file.write_text(RECIPE)
    recipe = load(file)
    facts = {**BEGUN, "data": asdict(COUNTS), "notes": [f"a note {HOSTILE}"]}
    return create(folder / "runs", "legal", dump(recipe, folder.absolute() / "runs" / "any"), planned(), facts)


@cache
def planned() -> str:
    """Plans once for all of them: it takes a third of a second."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "legal.yaml"
        file.write_text(RECIPE)
        recipe = load(file)
    return make_plan(recipe, read_shape(recipe.base, None), wished("4090"), COUNTS).to_json()


def trained(folder: Path) -> Run:
    """Makes one that learnt: a loss that halved, an adapter, and a claim that does not hold."""
    run = begun(folder)
    for record in (
        {"step": 0, "held_out_loss": 2.0},
        {"step": 1, "loss": 2.5, "step_seconds": 3.0, "tokens_per_second": 100.0},
        {"step": 2, "loss": float("nan"), "step_seconds": 5.0, "tokens_per_second": 300.0},
        {"step": 3, "loss": 0.5, "step_seconds": 4.0, "tokens_per_second": 200.0},
        {"step": 3, "held_out_loss": 1.0},
    ):
        metrics.append(run.metrics, record)
    claims = [
        claim("optimizer steps taken", 3, 3),
        claim("held-out loss fell by", 1.0),
        claim("memory: peak of the tensors on the GPU, bytes", 3 * 2**30, 4 * 2**30),
    ]
    stage(run, "train", {}, {"adapter/adapter_model.safetensors": "cd" * 32}, claims)
    merged = [claim("answers that begin alike", 6, 8, holds=False)]
    stage(run, "merge", {"adapter/adapter_model.safetensors": "cd" * 32}, {}, merged)
    return run


def stage(run: Run, name: str, inputs: dict[str, Any], outputs: dict[str, Any], claims: list[Any]) -> None:
    """Adds a stage to the manifest."""
    entry = Entry(name, inputs, outputs, claims, {"torch": "2.13.0"}, 90.0, "2026-11-28T04:12:51+00:00")
    manifest.add(run.manifest, entry)


def evaluated(folder: Path, *, also: Sequence[dict[str, Any]] = (), **changes: Any) -> Run:
    """Makes one that was evaluated as well.

    Args:
        folder: for it.
        also: more items than those of the first task.
        changes: of evaluation.json.
    """
    run = trained(folder)
    run.evaluation.parent.mkdir()
    atomic.write_json(run.evaluation, evaluation() | changes)
    run.evaluated_items.write_text("".join(json.dumps(item) + "\n" for item in [*items(), *also]))
    files = {run.named(file): atomic.sha256(file) for file in (run.evaluation, run.evaluated_items)}
    stage(run, "evaluate", {}, files, [claim("answers: better", 0.5)])
    return run


def evaluation() -> dict[str, Any]:
    """A task that got better, a loss that fell, and one that shows nothing."""
    side = {"engine": "transformers", "template": "t1", "tokenizer": "k1", "thinking": False, "sampling": {"seed": 0}}
    return {
        "format": 1,
        "run": "legal-0001",
        "made": "2026-11-28T07:31:09Z",
        "sides": {"base": {"what": "Qwen/Qwen3.6-27B", **side}, "tuned": {"what": "legal-0001", **side}},
        "tasks": [
            task("answers", "exact", "domain", (0.25, 0.75), (0.5, 0.25, 0.75), "better", flips=(20, 2)),
            task("held_out loss", "loss", "domain", (2.0, 1.0), (-1.0, -1.25, -0.75), "better"),
            task("general", "choice", "regression", (0.8, 0.79), (-0.01, -0.05, 0.03), "no evidence", flips=(0, 0)),
        ],
        "gate": {"rules": ["regression drops more than 0.1"], "failed": []},
        "notes": ["greedy"],
    }


def task(
    name: str,
    kind: str,
    of: str,
    scores: tuple[float, float],
    difference: tuple[float, float, float],
    verdict: str,
    flips: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Writes a task of base and tuned model."""
    sees = {"exact": 0.125, "loss": None, "choice": 0.05}[kind]
    change = dict(zip(("value", "low", "high"), difference, strict=True))
    pair = {"one": "base", "other": "tuned", "difference": change, "p": 0.25, "verdict": verdict, "sees": sees}
    return {
        "name": name,
        "kind": kind,
        "set": of,
        "unit": "nats a token" if kind == "loss" else "share of items",
        "better": "lower" if kind == "loss" else "higher",
        "items": 40,
        "data_sha256": "ee",
        "scores": {
            side: {"value": value, "low": value, "high": value}
            for side, value in zip(("base", "tuned"), scores, strict=True)
        },
        "pairs": [pair],
        "flips": dict(zip(("gained", "lost"), flips, strict=True)) if flips else None,
    }


def harness_task(
    name: str, scores: tuple[float, float] | None, difference: tuple[float, float, float] | None, **changes: Any
) -> dict[str, Any]:
    """Writes a regression task of lm-evaluation-harness that is worse; one without scores has no item with a figure."""
    told = task(name, "choice", "regression", scores or (0, 0), difference or (0, 0, 0), "worse")
    told |= {"kind": "lm_eval", "unit": "figure", "metric": "figure", "harness": "lm_eval 0.4.13", "few_shot": [5]}
    told |= {"versions": {name: "2"}, "hub": None, "data_sha256": name}
    return told | ({} if scores else {"items": 0, "scores": {}, "pairs": []}) | changes


def items() -> list[dict[str, Any]]:
    """40 answers: 20 gained, 2 lost, the others as before."""
    found = []
    for number in range(40):
        before, after = (0, 1) if number < 20 else (1, 0) if number < 22 else (1, 1)
        sides = {
            side: {"answer": f"{side} says {number} {HOSTILE}", "score": score, "loss": None, "tokens": 7}
            for side, score in (("base", before), ("tuned", after))
        }
        prompt = f"question {number} {HOSTILE}"
        found.append(
            {"task": "answers", "item": number, "place": f"rows.jsonl:{number + 1}", "prompt": prompt, "expected": "x"}
            | {"sides": sides}
        )
    return found


def whole(folder: Path) -> Run:
    """Makes one of which everything is told, and no hash, so that an edited file is read and not refused for it."""
    run = evaluated(folder)
    told = json.loads(run.manifest.read_text())
    told["stages"] = [each for each in told["stages"] if each["stage"] != "evaluate"]
    atomic.write_json(run.manifest, told)
    atomic.write_json(run.ledger, ledger())
    atomic.write_json(run.router, routers())
    return run


def ledger() -> dict[str, Any]:
    """A base, an adapter that lost nothing, a merge that was not made, and a GGUF that keeps half."""
    told = [("base", "bf16", 2.0, None), ("adapter", "nf4", 1.0, 1.0), ("gguf", "q4_k_m", 1.5, 0.5)]
    forms: list[dict[str, Any]] = [
        {
            "name": name,
            "weights": weights,
            "engine": "transformers",
            "bytes": 10**9,
            "not_measured": None,
            "loss": {"value": loss, "low": loss - 0.1, "high": loss + 0.1},
            "from_trained": {"value": loss - 1, "low": loss - 1.1, "high": loss - 0.9},
            "kept": None if kept is None else {"value": kept, "low": kept - 0.1, "high": kept + 0.1},
        }
        for name, weights, loss, kept in told
    ]
    forms.insert(2, {**forms[0], "name": "merged", "bytes": None, "not_measured": "finetune merge runs/legal-0001"})
    for key in ("loss", "from_trained", "kept"):
        del forms[2][key]
    examples = {"scored": 9, "of": 10, "tokens": 900, "learnt": 90}
    told_of = {"run": "legal-0001", "examples": examples, "unit": "nats a learnt token", "intervals": "95 %"}
    return {**told_of, "steps": forms, "advice": ["q4_k_m keeps 50% of the tuning: take q8_0"]}


def routers() -> dict[str, Any]:
    """Two layers whose routers moved."""
    before, after = {"skew": 1.5, "idle": [1]}, {"skew": 2.5, "idle": []}
    layer = {"rerouted": 0.25, "load_drift": 0.1, "before": before, "after": after}
    sums = {name: {"skew": told["skew"], "idle": 2} for name, told in (("before", before), ("after", after))}
    summary = {**sums, "rerouted": 0.25, "load_drift": 0.1, "experts": 16}
    return {"rows": {"of": "held-out", "rows": 3, "tokens": 400}, "summary": summary, "layers": [layer, layer]}
