"""Proof `prepare`: 2,000 real rows against the serving template and trl's own preparation; a million in bounded memory.

    FINETUNE_TEST_DATA=... scripts/prove prepare [--rows 1000000] [--skip-million]

Ids: of every example, those of transformers' `apply_chat_template` with the serving template, in both ways to treat
past turns. Labels: those of trl 1.16 with its own training template, but for two classes, each counted: the line break
after `<|im_end|>`, and the think prefix that the template wrote. Speed: CPU seconds of both on the same rows, in turns,
from the file to ids and labels on disk, one process each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import trl
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from finetune.data import Example, Renderer, Row, prepare
from finetune.data.filling import fill, reading_of, rows_in
from finetune.data.template import Template
from finetune.data.vocabulary import read_vocabulary
from finetune.recipe import load

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SETS = {
    "formats_llamafactory/alpaca_en_demo.json": 800,
    "formats_llamafactory/alpaca_zh_demo.json": 700,
    "formats_llamafactory/glaive_toolcall_en_demo.json": 300,
    "formats_llamafactory/reason_tool_use_demo_50.jsonl": 47,
    "formats_mlx/wwdc25__valid.jsonl": 144,
    "formats_fastchat/dummy_conversation.json": 9,
}
"""Of public files, how many rows: instructions in two languages, tool calls, reasoning, chats of several turns."""

MOST_BYTES = 2 * 2**30
"""Of memory for a million rows."""


@dataclass
class Compared:
    """One example, and what it was rendered from."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    example: Example


def main() -> None:
    """Prints what was found; ends with an error where anything differs that has no name."""
    words = argparse.ArgumentParser()
    words.add_argument("--rows", type=int, default=1_000_000)
    words.add_argument("--skip-million", action="store_true")
    asked = words.parse_args()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    folder = Path(os.environ["FINETUNE_TEST_DATA"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers" / "qwen3.5-rebuilt")
    tokenizer.chat_template = (TEMPLATES / "qwen3_6.jinja").read_text()
    vocabulary = read_vocabulary(folder / "tokenizers" / "qwen3.5-rebuilt")
    rows = real_rows(folder)
    print(f"{len(rows):,} real rows of {len(SETS)} files")
    for keep in (False, True):
        renderer = Renderer(Template(tokenizer.chat_template), vocabulary, preserve_thinking=keep)
        compared = [each for row in rows for each in compare(renderer, row)]
        ids_are_served(tokenizer, compared, keep)
    labels_are_explained(tokenizer, compared)
    with tempfile.TemporaryDirectory() as work:
        speed(tokenizer, renderer, compared, Path(work))
        if not asked.skip_million:
            a_million(folder, tokenizer.chat_template, asked.rows, Path(work))


def real_rows(folder: Path) -> list[Row]:
    """Reads the first rows of each set."""
    rows: list[Row] = []
    for name, most in SETS.items():
        good = (row for row in rows_in(reading_of(folder / name, name, None, None)) if isinstance(row, Row))
        rows += itertools.islice(good, most)
    return rows


def compare(renderer: Renderer, row: Row) -> Iterator[Compared]:
    """Yields the examples of a row, each with the messages that are in it."""
    messages = renderer.conversation(row)
    for example, (end, _) in zip(renderer.examples(row), renderer._rounds(messages, row.learn_from), strict=True):
        yield Compared(messages[:end], list(row.tools), example)


def ids_are_served(tokenizer: Any, compared: list[Compared], keep: bool) -> None:
    """Compares ids with those of the serving template; only text that spells a control token may differ."""
    spelt, equal = [], 0
    for each in compared:
        asked = {"tools": each.tools or None, "preserve_thinking": keep, "return_dict": True}
        served = tokenizer.apply_chat_template(each.messages, tokenize=True, **asked)["input_ids"]
        if served == each.example.ids:
            equal += 1
        else:
            said = json.dumps(each.messages, ensure_ascii=False)
            assert any(token in said for token in ("<think>", "</think>", "<tool_call>", "<|im_")), each.example.place
            spelt.append(each.example.place)
    told = f"; {len(spelt)} spell a control token, which stays text: {', '.join(spelt)}" if spelt else ""
    print(f"ids, preserve_thinking {keep}: {equal:,} of {len(compared):,} examples as served{told}")


def trl_columns(tokenizer: Any, rows: datasets.Dataset) -> datasets.Dataset:
    """Prepares rows as trl's SFTTrainer does, learning the assistant's words only."""
    trainer = types.SimpleNamespace(
        chat_template=(TEMPLATES / "qwen3_6_training.jinja").read_text(),
        completion_only_loss=True,
        _tokenizer=tokenizer,
    )
    settings = SFTConfig(
        output_dir=tempfile.gettempdir(),
        assistant_only_loss=True,
        max_length=None,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    return SFTTrainer._prepare_dataset(trainer, rows, tokenizer, settings, False, None, "train")


def as_dataset(lines: list[str]) -> datasets.Dataset:
    """Gives rows as trl takes them; JSON stays JSON, or Arrow would pad every tool with every other's parameters."""
    features = datasets.Features({"messages": datasets.List(datasets.Json()), "tools": datasets.Value("string")})
    parsed = [json.loads(line) for line in lines]
    rows = [{"messages": r["messages"], "tools": json.dumps(r["tools"]) if r["tools"] else None} for r in parsed]
    return datasets.Dataset.from_list(rows, features=features)


def as_lines(compared: list[Compared]) -> list[str]:
    """Writes rows as JSON Lines."""
    return [json.dumps({"messages": e.messages, "tools": e.tools}, ensure_ascii=False) for e in compared]


def labels_are_explained(tokenizer: Any, compared: list[Compared]) -> None:
    """Names every label that trl learns and we do not, or the other way round; one without a name ends the proof."""
    prepared = trl_columns(tokenizer, as_dataset(as_lines(compared)))
    classes, unequal = Counter[str](), 0
    for each, other in zip(compared, prepared, strict=True):
        example = each.example
        if other["input_ids"] != example.ids:
            unequal += 1
            continue
        spoken = [tokenizer.decode([i]) for i in example.ids]
        for i, (label, learnt) in enumerate(zip(other["labels"], example.learnt, strict=True)):
            if (label != -100) == learnt:
                classes["the same"] += 1
            else:
                classes[named(spoken, i, learnt)] += 1
    for name, number in classes.most_common():
        print(f"labels beside trl {trl.__version__}: {number:>9,}  {name}")
    print(f"labels beside trl {trl.__version__}: {unequal} examples not compared, whose text spells a control token")


def named(spoken: list[str], i: int, ours: bool) -> str:
    """Names the class of a label that differs.

    Raises:
        AssertionError: it has none.
    """
    around = "".join(spoken[max(0, i - 6) : i + 6])
    assert not ours, f"learnt here and not by trl: {spoken[i]!r} in {around!r}"
    if spoken[i] == "\n" and spoken[i - 1] == "<|im_end|>":
        return "trl learns the line break after <|im_end|>"
    prefixes = (["<think>", "\n\n", "</think>", "\n\n"], ["<think>", "\n"])
    for prefix in prefixes:
        for at, token in enumerate(prefix):
            begin = i - at
            if (
                token == spoken[i]
                and spoken[begin : begin + len(prefix)] == prefix
                and spoken[begin - 2] == "assistant"
            ):
                return "trl learns the think prefix that the template wrote"
    raise AssertionError(f"learnt by trl and not here: {spoken[i]!r} in {around!r}")


def speed(tokenizer: Any, renderer: Renderer, compared: list[Compared], work: Path) -> None:
    """Prepares the same rows in both ways, in turns, from JSON Lines to what a trainer reads from disk."""
    file = work / "rows.jsonl"
    lines = as_lines(compared)
    file.write_text("\n".join(lines) + "\n")
    best = {"trl": float("inf"), "ours": float("inf")}
    for turn in range(3):
        began = time.process_time()
        rows = trl_columns(tokenizer, as_dataset(file.read_text().splitlines()))
        rows.save_to_disk(str(work / f"trl-{turn}"))
        best["trl"] = min(best["trl"], time.process_time() - began)
        began = time.process_time()
        store, problems = fill(reading_of(file, "rows.jsonl", None, None), renderer, work / f"ours-{turn}")
        best["ours"] = min(best["ours"], time.process_time() - began)
        assert not problems
    tokens = {"trl": sum(map(len, rows["input_ids"])), "ours": len(store.parts["ids.u32"])}
    per_second = {name: tokens[name] / best[name] for name in best}
    for name in best:
        print(
            f"{name}: {tokens[name]:,} tokens in {best[name]:.2f} s of CPU, {per_second[name]:,.0f} tokens/s per core"
        )
    print(f"ours is {per_second['ours'] / per_second['trl']:.2f} times as fast")
    assert per_second["ours"] >= 2 * per_second["trl"]


def a_million(folder: Path, template: str, number: int, work: Path) -> None:
    """Prepares many rows twice, and tells time and the most memory of all processes together."""
    base = work / "base"
    base.mkdir()
    (base / "chat_template.jinja").write_text(template)
    (base / "tokenizer.json").symlink_to(folder / "tokenizers" / "qwen3.5-rebuilt" / "tokenizer.json")
    reading = reading_of(
        folder / "finance_banking77" / "train.csv", "", {"prompt": "text", "completion": "category"}, None
    )
    asked = [row.messages for row in rows_in(reading) if isinstance(row, Row)]
    with (work / "many.jsonl").open("w") as file:
        for i in range(number):
            question, answer = (message["content"] for message in asked[i % len(asked)])
            row = {"prompt": f"Ticket {i}. {question}", "completion": f"{answer} ({i % 97})"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (work / "many.yaml").write_text(f"base: {base}\ndata: {{train: many.jsonl, eval: 0.01}}\n")
    recipe = load(work / "many.yaml")
    for what in ("the first time", "the second"):
        began, most = time.monotonic(), MostMemory()
        with most:
            dataset = prepare(recipe, base, work / "cache")
            total = sum(dataset.train.lengths)  # type: ignore[attr-defined]
        seconds = time.monotonic() - began
        print(
            f"{number:,} rows, {total:,} tokens, {what}: {seconds:,.0f} s, at most {most.bytes / 2**20:,.0f} MiB",
            flush=True,
        )
        assert most.bytes <= MOST_BYTES


class MostMemory:
    """Looks twice a second at what this process and its children hold, shared pages counted once."""

    bytes = 0

    def __enter__(self) -> MostMemory:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            self.bytes = max(self.bytes, sum(map(held, family(os.getpid()))))


def family(process: int) -> list[int]:
    """Lists a process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children")
    try:
        return [process, *(c for child in children.read_text().split() for c in family(int(child)))]
    except FileNotFoundError:  # it ended meanwhile
        return []


def held(process: int) -> int:
    """Gives the anonymous memory of a process: pages of files that are mapped can be given back at any time."""
    try:
        told = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * int(next(line for line in told.splitlines() if line.startswith("Anonymous:")).split()[1])


if __name__ == "__main__":
    sys.exit(main())
