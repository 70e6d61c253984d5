"""A task of lm-evaluation-harness in a file, about questions that the toy has learnt to answer with `blue`."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

COLOURS = range(30, 42)
"""Of which colours is asked; none was learnt."""

MOST = 12
"""Tokens of an answer."""


def write_task(folder: Path, name: str, red: Collection[int] = (41,), **more: Any) -> Path:
    """Writes a task that generates, and its rows.

    Args:
        folder: where both go.
        name: of the task.
        red: colours of which `red` is expected, so that the toy is wrong.
        more: keys of the task, in place of those here; None takes one out.
    """
    rows = [{"question": f"colour {i}?", "answer": "red" if i in red else "blue"} for i in COLOURS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": MOST},
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **more,
    }
    (folder / f"{name}.yaml").write_text(
        yaml.safe_dump({key: value for key, value in told.items() if value is not None})
    )
    return folder / f"{name}.yaml"
