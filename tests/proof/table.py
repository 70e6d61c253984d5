"""Proof `table`: what the plan chooses for Qwen3.6-27B on cards of 12 to 80 GB, from 2k to 128k tokens.

    scripts/prove table [--method qlora] [--base Qwen/Qwen3.6-27B]

Pure arithmetic, in Markdown. Each proposal was planned, so it fits.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from finetune.data import Counts
from finetune.hardware import wished
from finetune.levers import POSITIONS
from finetune.plan import Plan, make_plan
from finetune.recipe import load
from finetune.shape import read_shape

CARDS = ("12GB", "16GB", "24GB", "48GB", "80GB")
LENGTHS = tuple(1024 * n for n in (2, 4, 8, 16, 32, 64, 128))
RANKS = (16, 64)
BATCH = 8
GIB = 2**30

LETTERS = {
    "embeddings host": "E",
    "head int8": "8",
    "head nf4": "4",
    "checkpoints host": "C",
    "recompute halves": "H",
    "optimizer adamw_8bit": "O",
    "optimizer paged_adamw_8bit": "P",
}
LEGEND = """\
A cell: examples in a micro-batch, levers, peak of the card, memory of the host, tokens a second by a roofline.
Every example is as long as the column says, and all of it is learnt; a step has 8 examples.
Levers: `E` embedding on the host, `8` or `4` head in 8 or 4 bits, `C` layer inputs on the host, `H` layers recomputed
in halves, `O` AdamW in 8 bits, `P` the same in memory that can move to the host, `-` none.
Where nothing fits: the nearest recipe that does."""

COUNTS = Counts(rows=100, examples=100)


def main() -> None:
    """Prints the table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--method", default="qlora")
    asked.add_argument("--base", default="Qwen/Qwen3.6-27B")
    words = asked.parse_args()
    print(f"{words.base}, {words.method}.\n\n{LEGEND}\n")
    for rank in RANKS:
        print(f"| rank {rank} | " + " | ".join(f"{length // 1024}k" for length in LENGTHS) + " |")
        print("|---" * (len(LENGTHS) + 1) + "|")
        for card in CARDS:
            cells = [cell(planned(words.base, words.method, card, length, rank)) for length in LENGTHS]
            print(f"| **{card}** | " + " | ".join(cells) + " |")
        print()


def planned(base: str, method: str, card: str, length: int, rank: int) -> Plan:
    """Plans one cell."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.yaml"
        file.write_text(f"base: {base}\nmethod: {method}\ndata: {{train: x.jsonl}}\n")
        recipe = load(file, [f"data.max_length={length}", f"lora.rank={rank}", f"train.batch_size={BATCH}"])
    counts = replace(COUNTS, tokens=length * COUNTS.examples, learnt_tokens=length * COUNTS.examples, longest=length)
    return make_plan(recipe, read_shape(base, None), wished(card), counts)


def cell(made: Plan) -> str:
    """Writes what was chosen, or what would fit."""
    if not made.fits:
        nearest = made.proposals[0] if made.proposals else "nothing"
        return "*" + nearest.replace("--set ", "").replace("Qwen/", "").replace(" revision=null", "") + "*"
    pulled = [f"{name} {getattr(made.choices, name)}" for name in POSITIONS]
    letters = "".join(LETTERS[word] for word in pulled if word in LETTERS) or "-"
    sizes = f"{made.peak_bytes / GIB:.1f} + {made.host_bytes / GIB:.0f} GiB"
    return f"{made.choices.micro_batch} x {letters}, {sizes}, {made.tokens_per_second:,.0f}/s"


if __name__ == "__main__":
    main()
