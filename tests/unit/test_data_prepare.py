"""From rows to examples: what is dropped, cut or refused, and what identifies the rest.

The tokenizer is a byte each and the added tokens of Qwen3.6; the template is Qwen3.6's own. No torch.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lensing import make_base, qwen_template

from finetune.data import Dataset, Renderer, prepare
from finetune.data.fitting import cut_at_turn
from finetune.data.template import Template, read_template
from finetune.data.vocabulary import read_vocabulary
from finetune.errors import ArtifactError, DataError
from finetune.recipe import load


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("byte-base"))


CHAT = {
    "messages": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "The second.", "reasoning_content": "Count."},
    ]
}
SHORT = {"prompt": "Hi", "completion": "Hello"}
LONG = {"prompt": "Tell me more", "completion": "word " * 40}


def prepared(folder: Path, base: Path, rows: list[dict[str, Any]], *words: str) -> Dataset:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text("base: a/b\ndata:\n  train: rows.jsonl\n  eval: 0\n")
    return prepare(load(folder / "recipe.yaml", words), base)


def test_counts_are_of_what_was_made(tmp_path: Path, base: Path) -> None:
    made = prepared(tmp_path, base, [CHAT, SHORT, LONG], "data.max_length=200")
    assert dataclasses.asdict(made.counts) == {
        "rows": 3,
        "held_out_rows": 0,
        "examples": 3,
        "held_out_examples": 0,
        "tokens": sum(map(len, made.train)),
        "learnt_tokens": sum(sum(example.learnt) for example in made.train),
        "longest": max(map(len, made.train)),
        "longest_held_out": 0,
        "dropped": 1,
        "truncated": 0,
        "with_reasoning": 1,
    }
    assert made.thinking
    assert [note.partition(" (")[0] for note in made.notes] == [
        "2 rows have no reasoning: they are learnt as answers to a prompt without thinking",
        "1 examples",
        "chats of several questions became one example for each",
        "nothing is held out: the run cannot show that it helped",
    ]


def test_notes_tell_of_columns_control_tokens_and_leaks(tmp_path: Path, base: Path) -> None:
    (tmp_path / "held.jsonl").write_text(json.dumps(SHORT) + "\n")
    rows = [{**SHORT, "source": "a"}, {"prompt": "What is <|im_end|>?", "completion": "A token."}]
    made = prepared(tmp_path, base, rows, f"data.eval={tmp_path}/held.jsonl")
    assert made.notes == (
        "columns that are not learnt: source (1 rows)",
        f"1 rows spell a control token, first {tmp_path}/rows.jsonl:2: it is encoded as text",
        "1 held-out rows are also learnt: the held-out loss flatters",
    )


# Too long


def test_too_long_an_example_is_refused_with_the_length_that_holds_all(tmp_path: Path, base: Path) -> None:
    rows = [SHORT, LONG, {**LONG, "completion": "word " * 50}]
    words = ["data.max_length=100", "data.too_long=error"]
    with pytest.raises(DataError, match="the row is too long") as caught:
        prepared(tmp_path, base, rows, *words)
    assert [p.where for p in caught.value.problems] == [f"{tmp_path}/rows.jsonl:{line}" for line in (2, 3)]
    fixes = {p.fix for p in caught.value.problems}
    assert len(fixes) == 1
    assert "--set data.max_length=100 allows 100" in caught.value.problems[0].why
    made = prepared(tmp_path, base, rows, *words, fixes.pop().removeprefix("--set "))
    assert made.counts.examples == 3


@pytest.mark.parametrize("what", ["drop", "truncate"])
def test_if_nothing_is_left_the_length_that_holds_all_is_told(what: str, tmp_path: Path, base: Path) -> None:
    with pytest.raises(DataError, match="no example is left to learn") as caught:
        prepared(tmp_path, base, [LONG, SHORT], "data.max_length=16", f"data.too_long={what}")
    (problem,) = caught.value.problems
    assert problem.where == "--set data.max_length=16"
    assert problem.why.startswith("all 2 are longer than 16 tokens: ")
    made = prepared(tmp_path, base, [LONG, SHORT], problem.fix.removeprefix("--set "))
    assert made.counts.dropped == 0


def test_if_nothing_held_out_is_left_that_is_told_too(tmp_path: Path, base: Path) -> None:
    (tmp_path / "held.jsonl").write_text(json.dumps(LONG) + "\n")
    with pytest.raises(DataError, match="no held-out example is left") as caught:
        prepared(tmp_path, base, [SHORT], f"data.eval={tmp_path}/held.jsonl", "data.max_length=100")
    assert caught.value.problems[0].fix.startswith("--set data.max_length=")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    turns=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6), limit=st.integers(1, 80)
)
def test_a_cut_example_ends_with_a_learnt_turn_or_is_nothing(turns: list[tuple[int, int]], limit: int) -> None:
    learnt = [mask for prompt, answer in turns for mask in [False] * prompt + [True] * answer] + [False]
    if limit >= len(learnt):
        return
    ends = [n for n in range(1, limit + 1) if learnt[n - 1] and not learnt[n]]
    assert cut_at_turn(bytes(learnt), limit) == (ends[-1] if ends else 0)


def test_at_every_limit_a_real_conversation_is_cut_after_an_end_of_turn_or_left_out(tmp_path: Path, base: Path) -> None:
    words = ["data.preserve_thinking=true", "data.too_long=truncate"]
    whole = prepared(tmp_path, base, [CHAT, SHORT], *words)
    chat, short = whole.train
    end_of_turn = whole.renderer.vocabulary.control["<|im_end|>"]
    seen = set()
    for limit in [*range(max(16, len(short)), len(chat), 3), len(chat) - 1]:
        made = prepared(tmp_path, base, [CHAT, SHORT], *words, f"data.max_length={limit}")
        if len(made.train) == 1:
            assert (made.counts.dropped, made.train[0].ids) == (1, short.ids)
            continue
        cut = made.train[0]
        seen.add(len(cut))
        assert len(cut) <= limit
        assert (cut.ids, cut.learnt) == (chat.ids[: len(cut)], chat.learnt[: len(cut)])
        assert (cut.ids[-1], cut.learnt[-1]) == (end_of_turn, True)
    assert len(seen) == 2  # after the first answer, and after the second


# Thinking


def test_always_demands_reasoning_of_every_row_and_names_the_first_without(tmp_path: Path, base: Path) -> None:
    with pytest.raises(DataError, match="1 of 2 rows have no reasoning") as caught:
        prepared(tmp_path, base, [CHAT, SHORT], "data.thinking=always")
    (problem,) = caught.value.problems
    assert problem.where == f"{tmp_path}/rows.jsonl:2  reasoning_content"
    assert problem.fix == "--set data.thinking=auto"
    assert prepared(tmp_path, base, [CHAT], "data.thinking=always").thinking


def test_reasoning_that_stands_in_a_prompt_only_is_not_learnt(tmp_path: Path, base: Path) -> None:
    row = {"prompt": [*CHAT["messages"], {"role": "user", "content": "Three?"}], "completion": "The third."}
    assert not prepared(tmp_path, base, [row]).thinking
    assert prepared(tmp_path, base, [CHAT]).thinking
    assert not prepared(tmp_path, base, [CHAT], "data.thinking=never").thinking


# Identity


def test_the_hash_changes_with_any_change_of_ids_masks_order_or_side(tmp_path: Path, base: Path) -> None:
    whole = prepared(tmp_path, base, [CHAT, SHORT, LONG])
    first, second, *rest = whole.train
    flipped = dataclasses.replace(second, learnt=[not second.learnt[0], *second.learnt[1:]])
    others = [
        dataclasses.replace(whole, train=[second, first, *rest]),
        dataclasses.replace(whole, train=[first, flipped, *rest]),
        dataclasses.replace(whole, train=[first, dataclasses.replace(second, ids=[1, *second.ids[1:]]), *rest]),
        dataclasses.replace(whole, train=[first, *rest]),
        dataclasses.replace(whole, train=whole.train[:-1], held_out=whole.train[-1:]),
        dataclasses.replace(whole, train=whole.train[1:], held_out=whole.train[:1]),
        prepared(tmp_path, base, [CHAT, SHORT, LONG], "system=You are brief."),
        prepared(tmp_path, base, [CHAT, SHORT, LONG], "data.thinking=never"),
        prepared(tmp_path, base, [CHAT, SHORT, LONG], "data.preserve_thinking=true"),
    ]
    assert len({whole.sha256, *(other.sha256 for other in others)}) == 1 + len(others)
    assert prepared(tmp_path, base, [CHAT, SHORT, LONG]).sha256 == whole.sha256


# Bases that are not one


@pytest.mark.parametrize("wrong", [{"model": {}}, {"version": "9"}, {"added_tokens": 3}, {"added_tokens": [{}]}])
def test_a_damaged_tokenizer_is_told(tmp_path: Path, base: Path, wrong: dict[str, object]) -> None:
    told = json.loads((base / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(told | wrong))
    with pytest.raises(ArtifactError, match="the base's tokenizer cannot be used"):
        read_vocabulary(tmp_path)


def test_a_base_without_its_tokenizer_or_template_is_told(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ArtifactError, match="the base's tokenizer cannot be read"):
        read_vocabulary(tmp_path)
    with pytest.raises(ArtifactError, match="no chat template"):
        read_template(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": 3}')
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default"}]}')
    with pytest.raises(ArtifactError, match="cannot be used"):
        read_vocabulary(tmp_path)
    with pytest.raises(ArtifactError, match="no chat template"):
        read_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": qwen_template()}))
    assert read_template(tmp_path) == read_template(base)
    for raw, told in (
        (b"{% if %}", "not Jinja"),
        (b"\xff", "cannot be read"),
        (b"{% generation %}", "not Jinja"),
        (b"{{" + b"(" * 5000, "cannot be read"),
    ):
        (tmp_path / "chat_template.jinja").write_bytes(raw)
        with pytest.raises(ArtifactError, match=told):
            read_template(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ 1 / 0 }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
    ],
)
def test_a_template_of_another_family_is_refused_before_a_row_is_rendered(source: str, base: Path) -> None:
    with pytest.raises(ArtifactError, match="the chat template") as caught:
        Renderer(Template(source), read_vocabulary(base))
    assert "put the base's own chat_template.jinja" in caught.value.problems[0].fix


def test_a_tokenizer_without_the_tokens_of_turns_is_refused(base: Path) -> None:
    vocabulary = read_vocabulary(base)
    poor = dataclasses.replace(vocabulary, control={"<|im_start|>": 1})
    with pytest.raises(ArtifactError) as caught:
        Renderer(read_template(base), poor)
    assert caught.value.problems[0].why == "the tokenizer has no token <|im_end|>"
