"""Exports a trained run in seven kinds of GGUF, asks each what the run is asked, and prints tables and the ledger.

    scripts/prove export RUN [--questions 10]

RUN is one that was trained without reasoning, such as that of scripts/demo. Wants llama-cpp-python, for K-quants and
for scores. The questions are those of held-out rows, answered greedily; an empty answer is a failure. The run answers
with 4 bits below its adapter, the files with the merged weights rounded, so that texts may part.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from finetune.data import read_split
from finetune.export import export, export_beside, gguf_file
from finetune.export.converter import kept
from finetune.generate import answer, open_tuned
from finetune.ledger import MOST_TOKENS, ledger
from finetune.llamacpp import open_gguf
from finetune.recipe import load
from finetune.run import Run, manifest, open_run
from finetune.verify import verify

KINDS = ("bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
LONGEST = 48


def main() -> int:
    """Prints what each kind costs, answers and keeps; 0 if all claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--questions", type=int, default=10)
    given = parser.parse_args()
    run, began = open_run(given.run), time.monotonic()
    export(run, KINDS, None, None, kept(), print, silent)
    export_beside(run, ["adapter"], None, None, kept(), print)
    print(f"exported in {time.monotonic() - began:.0f} s")
    wrong = asked(run, given.questions)
    print_ledger(ledger(run, MOST_TOKENS, silent))
    for claim in verify(run.path, None, kept(), silent):
        if not claim["holds"]:
            wrong.append(f"WRONG: {claim['claim']}: {claim['measured']}")
    print("\n".join(wrong) or "all claims hold")
    return bool(wrong)


def asked(run: Run, count: int) -> list[str]:
    """Asks the run and each of its files the same questions; tells what is wrong."""
    held_out = read_split(load(run.recipe))[1][:count]
    questions = [[message for message in row.messages if message["role"] != "assistant"][:1] for row in held_out]
    served = manifest.read_begun(run.manifest)["serving"]
    tuned = open_tuned(run)
    wanted = [answer(tuned, question, temperature=0.0, max_new_tokens=LONGEST).strip() for question in questions]
    wrong = []
    print(f"{'kind':<10}{'as the run':>12}{'empty':>8}")
    for kind in KINDS:
        file = gguf_file(run, run.path / "gguf", kind)
        ask = open_gguf(file, system=served["system"], temperature=0.0, max_new_tokens=LONGEST)
        found = [ask(question, silent).strip() for question in questions]
        same, empty = sum(a == b for a, b in zip(found, wanted, strict=True)), sum(not text for text in found)
        print(f"{kind:<10}{f'{same} of {len(wanted)}':>12}{empty:>8}", flush=True)
        if empty:
            wrong.append(f"WRONG: {empty} answers of {kind} are empty")
    return wrong


def print_ledger(told: dict[str, Any]) -> None:
    """Prints it as the command does."""
    from finetune.cli.accounting import table

    print("\n".join(table(told)))


def silent(*_: Any) -> None:
    """Hears progress and says nothing."""


if __name__ == "__main__":
    sys.exit(main())
