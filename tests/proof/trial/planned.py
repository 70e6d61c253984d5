"""A plan, for tests of what follows a plan."""

from __future__ import annotations

from pathlib import Path

from finetune.data import Counts
from finetune.hardware import Hardware
from finetune.plan import Plan, make_plan
from finetune.recipe import load
from finetune.shape import read_shape

COUNTS = Counts(
    rows=100,
    held_out_rows=5,
    examples=95,
    held_out_examples=5,
    tokens=20_000,
    learnt_tokens=4_000,
    longest=512,
    longest_held_out=512,
)


def plan_on_cpu(base: Path, folder: Path, *wishes: str) -> Plan:
    """Plans a training of a base on a CPU with 16 GiB, QLoRA unless one wishes otherwise."""
    (folder / "rows.jsonl").touch()
    (folder / "recipe.yaml").write_text(f"base: {base}\ndata: {{train: rows.jsonl}}\nmethod: qlora\n")
    recipe = load(folder / "recipe.yaml", wishes)
    return make_plan(recipe, read_shape(str(base), base), Hardware((), 0, 2**34), COUNTS)
