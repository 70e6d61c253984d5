"""A run of half a minute's arithmetic in which nothing is idle: dropout, accumulation, epochs that end in half a batch,
held-out rows scored in between, a checkpoint every other step, a base in 4 bits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

TOPICS = ("pump", "valve", "line", "pressure", "number", "answer", "question", "person", "system", "unit")

WISHES = """\
base: {base}
method: qlora
data:
  train: train.jsonl
  eval: held_out.jsonl
lora:
  rank: 4
  dropout: 0.1
train:
  epochs: 3
  batch_size: 8
  learning_rate: 5.0e-3
  save_every: 2
memory:
  micro_batch: 2
"""


def write_recipe(folder: Path, base: Path, *, num_rows: int = 28, long_row: bool = True) -> Path:
    """Writes a recipe and its rows.

    One held-out row has more than a thousand tokens. A step accumulates four micro-batches of two, and 28 rows are 3
    whole batches and a half: 4 steps an epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held_out = [_row(1000), _row(1001, repeat=55 if long_row else 1)]
    (folder / "train.jsonl").write_text("".join(_row(number) for number in range(num_rows)))
    (folder / "held_out.jsonl").write_text("".join(held_out))
    recipe = folder / "small.yaml"
    recipe.write_text(WISHES.format(base=base))
    return recipe


def words(recipe: Path, runs: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Gives the words that begin the run."""
    return ["train", str(recipe), "--runs", str(runs), *(f"--set={override}" for override in overrides)]


def _row(number: int, repeat: int = 1) -> str:
    topic, other = TOPICS[number % 10], TOPICS[(number // 10 + 3 * number) % 10]
    asked = f"Row {number}: what does the log say of the {topic}, and of the {other}? " * repeat
    told = f"The {topic} is number {number * 7 % 13}; the {other} was closed."
    return json.dumps({"prompt": asked.strip(), "completion": told}) + "\n"
