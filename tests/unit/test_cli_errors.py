"""Mistakes as the command tells them: four lines on stderr, the exit code of their kind, never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOOD = "base: Qwen/Qwen3.6-27B\ndata: {train: rows.jsonl}\n"
ROW = '{"prompt": "Hi", "completion": "Hello"}\n'


def finetune(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # an empty cache, so that no base of this computer is found and its tokenizer read
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "cache"), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "finetune", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


@pytest.mark.parametrize(
    ("recipe", "rows", "code", "told"),
    [
        (
            GOOD + "lora:\n  rnak: 8\n",
            ROW,
            2,
            """\
error: the recipe has no key lora.rnak
  where r.yaml:4  lora.rnak
  why   unknown keys are errors, not comments
  fix   lora.rank: 8
""",
        ),
        (
            "base: Qwen/Qwen3.6-27B\ndata:\n\ttrain: rows.jsonl\n",
            ROW,
            2,
            """\
error: the recipe is not YAML
  where r.yaml:3
  why   while scanning for the next token, found character '\\t' that cannot start any token
  fix   replace the tab by spaces:   train: rows.jsonl
""",
        ),
        (
            GOOD + "method: dpo\ntrain: {epochs: 0}\n",
            ROW,
            2,
            """\
error: method cannot be dpo
  where r.yaml:3  method
  why   it is one of 'qlora', 'lora' or 'full'
  fix   method: qlora
error: train.epochs cannot be 0
  where r.yaml:4  train.epochs
  why   it must be more than 0
  fix   train.epochs: 2.0
""",
        ),
        (
            GOOD,
            '{"context": "C.", "question": "Q?", "answer": "A."}\n',
            3,
            """\
error: which column asks and which answers is not certain
  where rows.jsonl:1  context, question, answer
  why   its columns are context, question, answer; context and question may ask and answer may answer
  fix   data.columns: {prompt: [context, question], completion: answer}
""",
        ),
        (
            GOOD,
            ROW + ROW.strip() + ",\n",
            3,
            """\
error: the line is not JSON
  where rows.jsonl:2
  why   Extra data at column 40
  fix   remove the comma at the end of the line
""",
        ),
        (
            "base: Qwen/Qwen3.6-27B\ndata: {train: row.jsonl}\n",
            ROW,
            3,
            """\
error: there is no file row.jsonl
  where r.yaml:2  data.train
  why   nothing is at FOLDER/row.jsonl
  fix   data.train: rows.jsonl
""",
        ),
    ],
    ids=["misspelt", "tab", "two mistakes", "dialect", "comma", "missing file"],
)
def test_a_mistake_is_told_in_four_lines_with_its_exit_code(
    recipe: str, rows: str, code: int, told: str, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(recipe)
    (tmp_path / "rows.jsonl").write_text(rows)
    done = finetune(tmp_path, "train" if code == 2 else "plan", "r.yaml")
    assert done.returncode == code
    assert done.stderr.replace(str(tmp_path), "FOLDER") == told
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("plan", "r.yaml", "--set", "lr=1e-4"), 2, "  fix   --set train.learning_rate=0.0001\n"),
        (("recipe", "show", "absent.yaml"), 2, "  fix   did you mean r.yaml?\n"),
        (("recipe", "show", "."), 2, "error: this is a folder, not a recipe\n"),
        (("plan", "\udcff.yaml"), 2, "error: there is no such recipe\n"),
    ],
)
def test_a_wrong_word_is_told_too(words: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    done = finetune(tmp_path, *words)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert re.match(r"error: .+\n  where .+\n", done.stderr)
