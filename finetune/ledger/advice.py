"""What to do where a step on the way to serving loses too much of the tuning."""

from __future__ import annotations

from typing import Any

from finetune.export import KINDS
from finetune.ledger.intervals import LEAST_EXAMPLES
from finetune.run import Run, outputs

ENOUGH = 0.9
"""Share of the tuning's effect below which a step is warned of."""

BY_SIZE = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "iq4_xs", "iq4_nl", "q4_0", "q4_k_s", "q4_k_m"),
    *("q5_k_s", "q5_k_m", "q6_k", "q8_0", "f16", "bf16", "f32"),
)
"""Kinds of GGUF, the smallest first."""

assert set(BY_SIZE) == set(KINDS)

OWN = ("merged", "merged onto dequantised", "gguf")
"""Steps that should be the run's model; a merge with other adapters is meant to be another."""

FEW_EXAMPLES = 20
"""Below which an interval drawn from them is narrower than it should be."""

NEXT = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "bf16")
"""Kinds that are worth a try, the smallest first."""


def advice(run: Run, lines: list[dict[str, Any]], num_examples: int) -> list[str]:
    """Names each step that keeps too little, and a command or a file that keeps more.

    Args:
        run: whose ledger it is.
        lines: of the ledger.
        num_examples: on which they were measured.
    """
    told = []
    if num_examples < LEAST_EXAMPLES:
        return [f"{num_examples} held-out examples: no share of the tuning is told of fewer than {LEAST_EXAMPLES}"]
    if num_examples < FEW_EXAMPLES:
        told.append(f"{num_examples} held-out examples are few: the intervals are narrower than they should be")
    base, tuned, *later = lines
    if tuned["kept"] is None:
        effect = base["from_trained"]
        between = f"{effect['low']:.4f} to {effect['high']:.4f}"
        told.append(f"what the tuning did to the held-out loss is not clear ({between} nats): no share of it is told")
    own = [line for line in later if line["name"] in OWN]
    return told + [_of_step(run, tuned["name"], line, own) for line in own if _share(line) < ENOUGH]


def short(line: dict[str, Any]) -> str:
    """Names a step in a word or two: a GGUF by its kind."""
    return str(line["weights"] if line["name"] == "gguf" else line["name"])


def _share(line: dict[str, Any]) -> float:
    """Of the tuning, that a step keeps; all of it where that was not measured."""
    kept = line.get("kept")
    return float(kept["value"]) if kept else 1.0


def _of_step(run: Run, learnt: str, line: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    name = short(line)
    said = f"{name} keeps {_share(line):.0%} of the tuning: "
    if line["name"] != "gguf" and learnt == "weights":
        return f"{said}{run.weights} holds all of it, in float32"
    if line["name"] != "gguf":
        out = str(run.path / "merged-dequantised")
        other = outputs.command("merge", run, "--onto", "dequantised", "--out", out)
        measured = any(other["name"] != line["name"] and other["name"].startswith("merged") for other in lines)
        return said + ("serve the adapter beside its base" if measured else f"compare {other}, then this ledger again")
    larger = BY_SIZE[BY_SIZE.index(name) + 1 :]
    shares = {each["weights"]: _share(each) for each in lines if each["name"] == "gguf" and each.get("kept")}
    good = [kind for kind in larger if shares.get(kind, 0.0) >= ENOUGH]
    if good:
        return f"{said}take {good[0]}, which keeps {shares[good[0]]:.0%}"
    untried = [kind for kind in NEXT if kind in larger and kind not in shares]
    if not untried:
        return f"{said}no larger file keeps more, so the loss lies before it"
    return f"{said}try {outputs.command('export', run, '--gguf', untried[0])}, then this ledger again"
