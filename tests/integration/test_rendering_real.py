"""Thousands of real rows: our ids are transformers' ids, and what is learnt follows what serving would write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finetune.data import Renderer, Row, read_rows
from finetune.data.template import read_template
from finetune.data.vocabulary import read_vocabulary

Rows = Iterator[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(test_data / "tokenizers" / "qwen3.5-rebuilt" / name, folder / name)
    template = (files("trl") / "chat_templates" / "qwen3_6.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return Renderer(read_template(folder), read_vocabulary(folder))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def alpaca(data: Path) -> Rows:
    """LLaMA-Factory's Alpaca rows, English and Chinese."""
    for name in ("alpaca_en_demo.json", "alpaca_zh_demo.json"):
        for row in json.loads((data / "formats_llamafactory" / name).read_text()):
            asked = [part for part in (row["instruction"], row["input"]) if part]
            if row["output"].strip():
                yield {"prompt": "\n\n".join(asked), "completion": row["output"]}


def gsm8k(data: Path) -> Rows:
    """Grade-school sums, answers with `<<16-3-4=9>>` in them."""
    for line in (data / "general_gsm8k" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield {"prompt": row["question"], "completion": row["answer"]}


def mlx(data: Path) -> Rows:
    """mlx-examples' prompts and completions, as they are."""
    for line in (data / "formats_mlx" / "wwdc25__valid.jsonl").read_text().splitlines():
        yield json.loads(line)


def glaive(data: Path) -> Rows:
    """Tool calls in ShareGPT's form."""
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    for row in json.loads((data / "formats_llamafactory" / "glaive_toolcall_en_demo.json").read_text()):
        messages: list[dict[str, Any]] = []
        for turn in row["conversations"]:
            if turn["from"] == "function_call":
                messages.append({"role": "assistant", "content": "", "tool_calls": [json.loads(turn["value"])]})
            else:
                messages.append({"role": roles[turn["from"]], "content": turn["value"]})
        yield {"tools": row["tools"], "messages": until_an_answer(messages)}


def reasoned(data: Path) -> Rows:
    """Reasoning and tool calls in LLaMA-Factory's v1 form."""
    for line in (data / "formats_llamafactory" / "reason_tool_use_demo_50.jsonl").read_text().splitlines():
        row = json.loads(line)
        messages: list[dict[str, Any]] = []
        for told in row["messages"]:
            parts = {kind: [p["value"] for p in told["content"] if p["type"] == kind] for kind in KINDS}
            message = {"role": told["role"], "content": "".join(parts["text"])}
            if parts["reasoning"]:
                message["reasoning_content"] = "".join(parts["reasoning"])
            if parts["tool_call"]:
                message["tool_calls"] = [json.loads(call) for call in parts["tool_call"]]
            calls = messages[-1].get("tool_calls", []) if messages else []
            if told["role"] == "tool" and len(calls) > 1:  # one message holds a list of all answers
                answers = json.loads(message["content"])
                messages += [{"role": "tool", "content": json.dumps(answer)} for answer in answers]
            else:
                messages.append(message)
        yield {"tools": row["tools"], "messages": until_an_answer(messages)}


KINDS = ("text", "reasoning", "tool_call")


def tau_bench(data: Path) -> Rows:
    """An airline's desk: long conversations in OpenAI's wire form, arguments as text; a third, for they take time."""
    for row in json.loads((data / "cs_taubench" / "gpt-4o-airline.first60.json").read_text())[::3]:
        yield {"messages": until_an_answer(row["traj"])}


def until_an_answer(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cuts a conversation after the assistant's last message."""
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return messages[: last + 1]


SETS: dict[str, tuple[Callable[[Path], Rows], int, bool]] = {
    "alpaca": (alpaca, 1999, False),
    "gsm8k": (gsm8k, 1319, False),
    "mlx": (mlx, 144, False),
    "glaive": (glaive, 300, True),
    "reasoned": (reasoned, 50, True),
    "tau-bench": (tau_bench, 20, False),
}
"""Name -> (rows, how many, whether they are worth both settings of preserve_thinking)."""


@pytest.mark.parametrize("name", SETS)
def test_ids_of_real_rows_are_those_of_transformers_and_answers_follow_the_prompt_of_serving(
    name: str, renderer: Renderer, tokenizer: Any, test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, num_rows, both = SETS[name]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make(test_data)))
    rows = read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == num_rows
    num_examples = num_turns = 0
    spelt = [row.place.rpartition(":")[2] for row in rows if spells_control(renderer, row)]
    assert spelt == (["6", "7"] if name == "reasoned" else [])  # their reasoning holds a </think>, which stays text
    for preserve in (False, True) if both else (False,):
        told = replace(renderer, preserve_thinking=preserve)
        for row in rows:
            examples, turns = compare(told, tokenizer, row)
            num_examples, num_turns = num_examples + examples, num_turns + turns
    with capsys.disabled():
        print(f"\n{name}: {len(rows):,} rows, {num_examples:,} examples of equal ids, {num_turns:,} learnt turns")


def compare(renderer: Renderer, tokenizer: Any, row: Row) -> tuple[int, int]:
    """Compares every example of a row; returns how many have equal ids, and how many learnt turns there are."""
    messages, examples = renderer.conversation(row), renderer.examples(row)
    ends = [example_end(messages, example_number, len(examples)) for example_number in range(len(examples))]
    turns = iter(i for i, m in enumerate(messages) if m["role"] == "assistant" and i >= row.learn_from)
    num_equal = num_turns = 0
    for example, end in zip(examples, ends, strict=True):
        theirs = tokenizer.apply_chat_template(
            messages[:end],
            tools=list(row.tools) or None,
            preserve_thinking=renderer.preserve_thinking,
            return_dict=False,
        )
        assert renderer.vocabulary.decode(example.ids) == tokenizer.decode(theirs)
        assert example.ids == theirs or spells_control(renderer, row)
        num_equal += example.ids == theirs
        edges = zip([False, *example.learnt], example.learnt, strict=False)
        for start in (i for i, (before, now) in enumerate(edges) if now and not before):
            turn = next(turns)
            thinking = "reasoning_content" in messages[turn]
            assert example.ids[:start] == renderer.prompt_ids(messages[:turn], row.tools, thinking)
            num_turns += 1
    assert next(turns, None) is None
    return num_equal, num_turns


def spells_control(renderer: Renderer, row: Row) -> bool:
    """Tells whether the row's own text holds a control token: the one case in which ids may and must differ."""
    return renderer.control.search(json.dumps([row.messages, row.tools], ensure_ascii=False)) is not None


def example_end(messages: list[dict[str, Any]], number: int, num_examples: int) -> int:
    """Finds where an example ends: before the next question or, if there is one example, with the conversation."""
    if num_examples == 1:
        return len(messages)
    questions = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return [*questions[1:], len(messages)][number]
