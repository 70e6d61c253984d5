"""Proof `malformed`: 5,000 rows broken at random, and files of random bytes: read or told in our words, no traceback.

    scripts/prove malformed [--rows 5000]

The mutations are those of tests/unit/test_data_mutated.py, where 500 run in the gate; here others are drawn each time.
"""

from __future__ import annotations

import argparse
import importlib.util
import secrets
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from finetune.data import read_rows
from finetune.errors import DataError

ALONE: Any = {"deadline": None, "database": None}
UNIT = Path(__file__).parents[1] / "unit" / "test_data_mutated.py"


def mutants() -> Any:
    """Takes the mutations of the gate."""
    spec = importlib.util.spec_from_file_location("test_data_mutated", UNIT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mutants()


def main() -> None:
    """Draws rows, and counts what becomes of them."""
    words = argparse.ArgumentParser()
    words.add_argument("--rows", type=int, default=5000)
    words.add_argument("--seed", type=int, default=secrets.randbits(32))
    asked = words.parse_args()
    told = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"

        @seed(asked.seed)
        @settings(max_examples=asked.rows, phases=[Phase.generate], suppress_health_check=list(HealthCheck), **ALONE)
        @given(text=mutants())
        def read_one(text: str) -> None:
            file.write_bytes(text.encode("utf-8", "surrogatepass") + b"\n")
            try:
                told[f"read as {read_rows(file)[0].shape}"] += 1
            except DataError as error:
                told[error.problems[0].what] += 1

        read_one()
    read = sum(count for what, count in told.items() if what.startswith("read as"))
    print(f"seed {asked.seed}: {told.total():,} rows, {read:,} read, {told.total() - read:,} told, 0 tracebacks")


if __name__ == "__main__":
    sys.exit(main())
