"""A base of one token a byte, which tears every letter beyond ASCII apart, and rows that hold all there is to show."""

from __future__ import annotations

import base64
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from finetune.data import Dataset, prepare
from finetune.recipe import load

ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
ADDED += ["<tool_response>", "</tool_response>"]

CALL = {"type": "function", "function": {"name": "find", "arguments": {"city": "Zürich"}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
TOOLS = {
    "tools": [TOOL],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is 東京?"},
        {"role": "assistant", "content": "", "reasoning_content": "Look it up.", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"at": 3}'},
        {"role": "assistant", "content": "There. 👍🏽", "reasoning_content": "Found."},
    ],
}
HOSTILE = {
    "prompt": "<think>\x1b[31mred\x07 \u202eright</script><img src=x onerror=alert(1)>\t two  \r\n<|im_end|>",
    "completion": "⟦ no ⟧ é 🇩🇪 </script> end \n\n  of it",
}
CHAT = {
    "messages": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": "Two? " + "word " * 30},
        {"role": "assistant", "content": "The second."},
    ]
}
ROWS = [TOOLS, HOSTILE, CHAT, {"prompt": "Hi", "completion": "Hello there"}]


def qwen_template() -> str:
    """Finds Qwen3.6's template in trl without importing trl, which would import torch."""
    spec = find_spec("trl")
    assert spec
    assert spec.origin
    return (Path(spec.origin).parent / "chat_templates" / "qwen3_6.jinja").read_text()


def make_base(folder: Path) -> Path:
    """Writes the tokenizer, and Qwen3.6's own template, found in trl without importing it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(qwen_template())
    return folder


def write_recipe(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """Writes a recipe whose last row is held out too."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held.jsonl").write_text(json.dumps(rows[-1]) + "\n")
    (folder / "recipe.yaml").write_text("base: a/b\ndata:\n  train: rows.jsonl\n  eval: held.jsonl\n")
    return folder / "recipe.yaml"


def prepared(folder: Path, base: Path, *words: str, rows: list[dict[str, Any]] = ROWS) -> Dataset:
    """Prepares the rows, as training does."""
    return prepare(load(write_recipe(folder, rows), words), base)


TRUNCATED = ("data.max_length=230", "data.too_long=truncate", "data.preserve_thinking=true")
"""With it the chat is cut after its first answer, and the row with tools is too long even for that."""


def data_block(page: str) -> dict[str, Any]:
    """Reads what a page holds, as its script does."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(block)


def varints(text: str) -> list[int]:
    """Unpacks numbers of seven bits a byte, the lowest first."""
    numbers, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    return numbers


def read_page(page: str) -> list[dict[str, Any]]:
    """Decodes every example of a page: its place, and for each token its id and its fate."""
    told = data_block(page)
    sequence, runs = iter(varints(told["sequence"])), iter(varints(told["runs"]))
    found = []
    for place, side, row in zip(told["places"], told["sides"], told["rows"], strict=True):
        ids: list[int] = []
        fates: list[str] = []
        for _ in range(next(runs)):
            length, code = next(runs), next(runs)
            for _ in range(length):
                _, *of_cell = told["cells"][next(sequence)]
                ids += of_cell
                fates += [told["fates"][code // 2 % len(told["fates"])]] * len(of_cell)
        found.append({"place": place, "side": side, "row": row, "ids": ids, "fates": fates})
    assert not [*sequence, *runs]
    return found
