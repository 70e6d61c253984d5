"""What is shown is what is learnt: cells hold every id, and colours parsed back from a terminal are the mask."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lensing import HOSTILE, TRUNCATED, make_base, prepared
from rich.cells import cell_len
from tokenizers import pre_tokenizers

from finetune.data import Dataset, Example
from finetune.data.vocabulary import read_vocabulary
from finetune.lens import Look, Reader, Shown, draw, everything, stretches
from finetune.lens.cells import _BYTES
from finetune.lens.styles import ASCII


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("byte-base"))


@pytest.fixture(scope="module")
def reader(base: Path) -> Reader:
    return Reader(read_vocabulary(base))


@pytest.fixture(scope="module")
def cut(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("cut"), base, *TRUNCATED)


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("whole"), base)


# Cells


def test_bytes_are_spelt_as_tokenizers_spells_them() -> None:
    assert set(_BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
    speller = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in [chr(n) for n in range(0x800)] + ["東", "🙂", "\U0010ffff"]:
        ((spelt, _),) = speller.pre_tokenize_str(text)
        assert bytes(_BYTES[letter] for letter in spelt) == text.encode()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_every_token_stands_in_one_cell_and_the_cells_read_as_the_text(reader: Reader, text: str) -> None:
    ((ids),) = reader.vocabulary.encode([(text, False)])
    cells = reader.cells(ids)
    assert [i for cell in cells for i in cell.ids] == ids
    assert "".join(cell.text for cell in cells) == reader.vocabulary.decode(ids)


@pytest.mark.parametrize("text", ["東", "é", "x\u0327", "👍🏽", "🇩🇪", "👩\u200d👧", "हि", "☃️"])
def test_the_tokens_of_one_character_are_one_cell(reader: Reader, text: str) -> None:
    (ids,) = reader.vocabulary.encode([(f"a {text} b", False)])
    assert [cell.text for cell in reader.cells(ids)] == ["a", " ", text, " ", "b"]


def test_two_flags_are_two_cells(reader: Reader) -> None:
    (ids,) = reader.vocabulary.encode([("🇩🇪🇫🇷", False)])
    assert [cell.text for cell in reader.cells(ids)] == ["🇩🇪", "🇫🇷"]


def test_bytes_that_are_no_text_are_shown_as_bytes(reader: Reader) -> None:
    (ids,) = reader.vocabulary.encode([("東a", False)])
    assert [(cell.text, len(cell.ids)) for cell in reader.cells(ids[:2])] == [("\\xe6\\x9d", 2)]
    assert [cell.text for cell in reader.cells(ids[1:])] == ["\\x9d", "\\xb1", "a"]


# Turns, parts and fates


def test_turns_reasoning_calls_and_results_are_told_apart(whole: Dataset, reader: Reader) -> None:
    every = stretches(whole.train[0], reader)
    assert [(each.role, each.part, each.fate) for each in every] == [
        ("system", "frame", "context"),
        ("system", "text", "context"),
        ("system", "frame", "context"),
        ("user", "frame", "context"),
        ("user", "text", "context"),
        ("user", "frame", "context"),
        ("assistant", "frame", "context"),
        ("assistant", "reasoning", "context"),  # <think>⏎, which serving writes
        ("assistant", "reasoning", "learnt"),
        ("assistant", "text", "learnt"),
        ("assistant", "tool call", "learnt"),
        ("assistant", "frame", "learnt"),  # <|im_end|>
        ("assistant", "frame", "context"),
        ("tool", "frame", "context"),
        ("tool", "tool result", "context"),
        ("tool", "frame", "context"),
        ("assistant", "frame", "context"),
        ("assistant", "reasoning", "context"),
        ("assistant", "reasoning", "learnt"),
        ("assistant", "text", "learnt"),
        ("assistant", "frame", "learnt"),
        ("assistant", "frame", "context"),
    ]


def test_a_control_token_that_a_customer_spells_begins_nothing(whole: Dataset, reader: Reader) -> None:
    user = [each.part for each in stretches(whole.train[1], reader) if each.role == "user"]
    assert user == ["frame", "text", "frame"]
    assert "<think>" in HOSTILE["prompt"]


def test_ids_that_are_no_conversation_are_one_turn_of_text(reader: Reader) -> None:
    (ids,) = reader.vocabulary.encode([("Once upon a time", False)])
    (only,) = stretches(Example(ids, [True] * len(ids), "x:1"), reader)
    assert (only.role, only.part, only.fate, only.end) == ("", "text", "learnt", len(ids))


# The terminal, parsed back


def test_with_ids_the_terminals_colours_are_the_mask(whole: Dataset, cut: Dataset, reader: Reader) -> None:
    assert [len(example.cut) > 0 for example in cut.train].count(True) == 1
    for width in (20, 60, 100):
        for shown in [*everything(whole, ["train", "held-out"]), *everything(cut, ["train"])]:
            drawn = draw(shown, reader, 2048, Look(width, color=True, ids=True))
            told = [(int(i), fate) for fate, text in colored(drawn) for i in re.findall(r"\d+", text)]
            assert told == expected(shown), shown.example.place


def expected(shown: Shown) -> list[tuple[int, str]]:
    example = shown.example
    fates = ["learnt" if each else "context" for each in example.learnt] + ["cut"] * len(example.cut)
    return list(zip([*example.ids, *example.cut], fates, strict=True))


def colored(drawn: str) -> list[tuple[str, str]]:
    """Reads the rows of ids: (fate, text), by the ground they stand on."""
    found = []
    for _, body in turns(drawn):
        for line in body[1::2]:
            assert line.count("\x1b[") % 2 == 0
            for style, text in re.findall(r"\x1b\[([0-9;]+)m([^\x1b]*)\x1b\[0m", line):
                ground = re.search(r"48;5;(\d+)", style)
                fate = "context" if ground is None else "cut" if int(ground[1]) in (217, 224) else "learnt"
                found.append((fate, text))
    return found


def turns(drawn: str) -> list[tuple[str, list[str]]]:
    """Divides a drawing into (rule, lines below it)."""
    plain = re.compile(r"\x1b\[[0-9;]*m")
    lines = drawn.split("\n")[2:]
    found: list[tuple[str, list[str]]] = []
    for is_rule, group in groupby(lines, key=lambda line: plain.sub("", line).startswith("── ")):
        if is_rule:
            found += [(rule, []) for rule in group]
        else:
            found[-1][1].extend(group)
    return found


@pytest.mark.parametrize("width", [20, 41, 100])
def test_without_colour_the_marks_hold_exactly_what_is_learnt(width: int, whole: Dataset, reader: Reader) -> None:
    for shown in everything(whole, ["train"]):
        drawn = draw(shown, reader, 2048, Look(width, marks=ASCII))
        text = "".join(line[2:] for line in "\n".join(re.split(r"\n-- [^\n]*", drawn)[1:]).split("\n"))
        learnt = "".join(re.findall(r"\[\[(.*?)\]\]", text, re.DOTALL))
        ids = [i for i, is_learnt in zip(shown.example.ids, shown.example.learnt, strict=True) if is_learnt]
        assert learnt == reader.vocabulary.decode(ids).replace("\n", "\\n"), width


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("color", [False, True])
def test_no_line_is_wider_than_the_terminal(ids: bool, color: bool, whole: Dataset, reader: Reader) -> None:
    for shown in everything(whole, ["train"]):
        drawn = draw(shown, reader, 2048, Look(48, color=color, ids=ids))
        for line in drawn.split("\n")[2:]:
            assert cell_len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 48, line


def test_nothing_of_the_data_is_obeyed_by_a_terminal(whole: Dataset, reader: Reader) -> None:
    (shown,) = [each for each in everything(whole, ["train"]) if "rows.jsonl:2" in each.example.place]
    plain = draw(shown, reader, 2048, Look())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", plain)
    assert "␛[31mred␇ \\u202eright" in plain
    assert set(re.findall(r"\x1b\[([^m]*)m", draw(shown, reader, 2048, Look(color=True)))) <= STYLES


STYLES = {
    *("0", "1", "2", "3", "38;5;34", "38;5;133"),
    *(f"1;{slant}38;5;{ink};48;5;{ground}" for slant, ink, ground in [("", 16, 194), ("", 16, 151), ("", 53, 194)]),
    "1;38;5;53;48;5;151",
}


def test_the_head_tells_what_was_cut_and_the_rules_how_much_is_learnt(cut: Dataset, reader: Reader) -> None:
    (shown,) = [each for each in everything(cut, ["train"]) if each.example.cut]
    lines = draw(shown, reader, 230, Look()).split("\n")
    figures = f"{len(shown.example)} tokens, {sum(shown.example.learnt)} learnt, "
    assert lines[0].endswith(f"rows.jsonl:3   example {shown.number} to learn")
    assert lines[1].startswith(figures)
    assert lines[1].endswith(f"; max_length 230, {len(shown.example.cut)} more were cut off")
    rules = [re.sub("─+", "", line).split() for line in lines if line.startswith("── ")]
    assert [rule[0] for rule in rules] == ["user", "assistant", "user", "assistant"]
    assert [rule[-2:] for rule in rules][2:] == [["cut", "off"], ["cut", "off"]]


def test_what_was_left_out_is_shown_as_cut_to_the_last_token(whole: Dataset, reader: Reader) -> None:
    shown = Shown(whole.train[0], "left-out", 1)
    assert {each.fate for each in stretches(shown.example, reader, shown.is_left_out)} == {"cut"}
    assert (shown.num_learnt, shown.num_cut) == (0, len(shown.example))
    drawn = draw(shown, reader, 64, Look(color=True, ids=True))
    assert [(int(i), fate) for fate, text in colored(drawn) for i in re.findall(r"\d+", text)] == [
        (i, "cut") for i in shown.example.ids
    ]
    assert drawn.split("\n")[1] == f"{len(shown.example):,} tokens, more than max_length 64: nobody sees them"
