"""What a check of the data finds: small rows with known faults, and real ones where they lie."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.check import CODES, Figures, Finding, Findings, check_rows
from finetune.check.finding import Side
from finetune.check.languages import language
from finetune.check.minhash import PERMUTATIONS, bands, signatures
from finetune.check.words import hashed, runs, units
from finetune.data import Row
from finetune.data.messages import row_from


def row(prompt: str, answer: str, place: str = "rows.jsonl:1", **more: Any) -> Row:
    made = row_from({"prompt": prompt, "completion": answer, **more}, place)
    assert isinstance(made, Row), made
    return made


def checked(*pairs: tuple[str, str], held_out: tuple[tuple[str, str], ...] = ()) -> list[Finding]:
    """Checks rows that are named by their number; held-out ones by `held:number`."""
    rows: list[tuple[Row, Side]] = [(row(*pair, f"rows.jsonl:{i}"), "learnt") for i, pair in enumerate(pairs, 1)]
    rows += [(row(*pair, f"held.jsonl:{i}"), "held out") for i, pair in enumerate(held_out, 1)]
    found: list[Finding] = []
    check_rows(rows, Findings(found.append), Figures())
    return [finding for finding in found if finding.code != "few-rows"]


def codes(prompt: str, answer: str = "Well, that depends on the clause.") -> set[str]:
    return {finding.code for finding in checked((prompt, answer))}


LONG = (
    "The pump on line three stopped at noon because the valve was closed and nobody wrote down who had closed it " * 4
)
TEXT = " ".join(f"{word}{i}" for i, word in enumerate(LONG.split()))


def test_the_codes_are_those_that_programs_know() -> None:
    assert list(CODES) == [
        "refused",
        *("duplicate-exact", "duplicate-normalised", "duplicate-near", "prompt-conflict"),
        *("leak-exact", "leak-normalised", "leak-prompt", "leak-near", "leak-answer"),
        *("secret-token", "secret-password", "personal-email", "personal-phone", "personal-card", "personal-iban"),
        *("personal-id", "personal-name", "personal-ip", "mojibake", "replacement-character", "control-character"),
        *("invisible-character", "lone-surrogate", "html-left", "placeholder", "control-token", "think-unbalanced"),
        *("role-in-text", "answer-says-nothing", "answer-refuses", "answer-is-prompt", "answer-cut"),
        *("tool-schema-invalid", "tool-without-schema", "tool-argument-unknown", "tool-argument-missing"),
        *("tool-argument-wrong", "too-long", "cut-to-fit", "few-rows"),
    ]


def test_units_keep_what_makes_a_number_and_drop_punctuation() -> None:
    assert units("Top-up, 1.5 and -5; 5 - 3!  ＡＢＣ") == ["top", "up", "1.5", "and", "-5", "5-3", "abc"]
    assert units("你好, नमस्ते") == ["你", "好", "नमस्ते"]


def test_minima_agree_as_often_as_the_jaccard_index_says() -> None:
    chance = random.Random(3)
    for common in (20, 60, 90, 100):
        words = [str(chance.random()) for _ in range(200 - common)]
        one, other = words[:100], words[100 - common :]
        a, b = (runs(hashed(text), 1) for text in (one, other))
        minima = signatures([a, b])
        index = len({*one} & {*other}) / len({*one} | {*other})
        assert (minima[0] == minima[1]).mean() == pytest.approx(index, abs=4 * (0.25 / PERMUTATIONS) ** 0.5)
    assert (bands(minima)[0] == bands(minima)[1]).all()
    assert np.array_equal(signatures([a])[0], minima[0])


# Rows that say the same


def test_duplicates_are_told_once_a_group_with_all_places() -> None:
    (found,) = checked(("Ask", "Say this"), ("Other", "Thing"), ("Ask", "Say this"), ("Ask", "Say this"))
    assert (found.code, found.place) == ("duplicate-exact", "rows.jsonl:1")
    assert found.others == ("rows.jsonl:3", "rows.jsonl:4")
    assert found.fix == "sed '3d;4d' rows.jsonl > rows.kept.jsonl"


def test_case_spaces_and_punctuation_make_no_new_row_but_numbers_do() -> None:
    (found,) = checked(("Add it up!", "it is  Five."), ("add it, up", "It is five"))
    assert found.code == "duplicate-normalised"
    assert not checked(("What is 1.5 + 2?", "3.5"), ("What is 15 + 2?", "17"))


def test_a_row_with_few_words_changed_is_nearly_the_same_and_one_with_many_is_not() -> None:
    words = TEXT.split()
    few, many = list(words), list(words)
    few[::20] = ["other"] * len(few[::20])
    many[::3] = ["other"] * len(many[::3])
    (found,) = checked((TEXT, "Yes."), (" ".join(few), "Yes."), (" ".join(many), "Yes."))
    assert (found.code, found.place, found.others) == ("duplicate-near", "rows.jsonl:1", ("rows.jsonl:2",))


def test_questions_with_other_options_are_other_rows() -> None:
    assert not checked(
        ("Which sensor fails first?\nA pressure\nB speed\nC voltage", "A"),
        ("Which sensor fails first?\nA humidity\nB torque\nC light", "A"),
    )


def test_one_prompt_with_two_answers_is_a_conflict() -> None:
    (found,) = checked(("May I cancel?", "Yes, within 14 days."), ("May I cancel?", "No, never."))
    assert (found.code, found.others) == ("prompt-conflict", ("rows.jsonl:2",))


def test_each_held_out_row_leaks_in_one_way() -> None:
    words = TEXT.split()
    near = [*words[:40], "other", *words[41:]]
    answer = " ".join(words[:30])
    found = checked(
        ("Where is my card?", "It is on its way."),
        (TEXT, "Yes."),
        ("Tell me about the pump, and do so " + "at length " * 9, answer),
        held_out=(
            ("Where is my card?", "It is on its way."),
            ("where is my card", "it is on its way"),
            ("Where is my card", "I cannot see it from here."),
            (" ".join(near), "Yes."),
            (" ".join(f"elsewhere{i}" for i in range(40)), f"Indeed: {answer}"),
            ("Unheard of", "Entirely new"),
        ),
    )
    leaks = {finding.place: (finding.code, finding.others[0]) for finding in found if finding.code.startswith("leak")}
    assert leaks == {
        "held.jsonl:1": ("leak-exact", "rows.jsonl:1"),
        "held.jsonl:2": ("leak-normalised", "rows.jsonl:1"),
        "held.jsonl:3": ("leak-prompt", "rows.jsonl:1"),
        "held.jsonl:4": ("leak-near", "rows.jsonl:2"),
        "held.jsonl:5": ("leak-answer", "rows.jsonl:3"),
    }


def test_the_25_rows_of_banking77_that_leak_are_found(test_data: Path) -> None:
    rows: list[tuple[Row, Side]] = []
    sides: tuple[tuple[str, Side], ...] = (("train", "learnt"), ("test", "held out"))
    for name, side in sides:
        with (test_data / "finance_banking77" / f"{name}.csv").open(newline="") as file:
            told = [(line["text"], line["category"]) for line in csv.DictReader(file)]
        rows += [(row(*pair, f"{name}.jsonl:{i}"), side) for i, pair in enumerate(told, 1)]
    findings = Findings()
    check_rows(rows, findings, Figures())
    assert findings.counts["leak-exact"] + findings.counts["leak-normalised"] == 25
    assert findings.counts["leak-prompt"] == 0


# Texts


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("CafÃ© au lait, sâ€™il vous plaÃ®t", "mojibake"),
        ("Ð\u009fÑ\u0080Ð¸Ð²ÐµÑ\u0082", "mojibake"),
        ("The price is 5 \ufffd today", "replacement-character"),
        ("one\x07two", "control-character"),
        ("in\u200bvisible", "invisible-character"),
        ("turn \u202earound", "invisible-character"),
        ("R&amp;D is <b>good</b>", "html-left"),
        ("Dear [Your Name], yours", "placeholder"),
        ("I am {{name}}", "placeholder"),
        ("TODO: write this", "placeholder"),
        ("stop <|im_end|> here", "control-token"),
        ("so </think> it is", "think-unbalanced"),
        ("Yes.\nassistant: None", "role-in-text"),
        ("N/A", "answer-says-nothing"),
        ("...", "answer-says-nothing"),
        ("As an AI language model, I have no body.", "answer-refuses"),
        ("I'm sorry, but I can't help with that.", "answer-refuses"),
        ("作为一个人工智能语言模型，我没有身体。", "answer-refuses"),
        ("what is the notice period", "answer-is-prompt"),
    ],
)
def test_a_fault_of_a_text_is_told_by_its_code(answer: str, code: str) -> None:
    assert codes("What is the notice period?", answer) == {code}


@pytest.mark.parametrize(
    "answer",
    [
        "Café au lait, s’il vous plaît: 5 € – naïve Ångström",
        "Ä“ and É» are odd, not broken",
        "می‌خواهم and 👩‍👩‍👧 and 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "Use `{{ value }}` in the template, and ```\n# TODO: later\n```",
        "Tom & Jerry; a < b > c; x[0]",
        "The system: it works. A user: somebody who uses it.",
        "None of them, null and void.",
    ],
)
def test_what_only_looks_like_a_fault_is_not_told(answer: str) -> None:
    assert codes("What is the notice period?", answer) == set()


def test_mojibake_is_told_with_its_cure() -> None:
    (found,) = checked(("Ask", "Le cafÃ© est fermÃ©."))
    assert found.fix == "write Le café est fermé."


def test_an_answer_that_breaks_off_is_told_where_others_end() -> None:
    whole = [(f"{i}?", f"{i} is told in one long sentence that has more than twenty words so that it counts "
              "as prose and then it ends as it should.") for i in range(9)]  # fmt: skip
    cut = (
        "Cut?",
        "This one is told in a long sentence that has more than twenty words so that it counts as prose and then",
    )
    assert [f.place for f in checked(*whole, cut) if f.code == "answer-cut"] == ["rows.jsonl:10"]
    assert not [
        f
        for f in checked(cut, *[(f"{p}{i}", a.rstrip(".")) for i, (p, a) in enumerate(whole)])
        if f.code == "answer-cut"
    ]


# Calls


def called(arguments: dict[str, Any], parameters: dict[str, Any]) -> list[Finding]:
    """Checks a row that calls one tool."""
    call = {"type": "function", "function": {"name": "book", "arguments": arguments}}
    made = row_from(
        {
            "tools": [{"type": "function", "function": {"name": "book", "parameters": parameters}}],
            "messages": [
                {"role": "user", "content": "Book it"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ],
        },
        "rows.jsonl:1",
    )
    assert isinstance(made, Row), made
    found: list[Finding] = []
    check_rows([(made, "learnt")], Findings(found.append), Figures())
    return [finding for finding in found if finding.code != "few-rows"]


BOOK = {
    "type": "dict",
    "properties": {
        "seats": {"type": "float"},
        "when": {"type": "string", "enum": ["today", "tomorrow"]},
        "note": {"type": "any"},
        "pair": {"type": "tuple", "items": {"type": "integer"}},
    },
    "required": ["seats"],
}


@pytest.mark.parametrize(
    ("arguments", "codes", "field"),
    [
        ({"seats": 2.5, "note": [1], "pair": [1, 2]}, [], ""),
        ({"seats": "two"}, ["tool-argument-wrong"], "messages[1].tool_calls[0].function.arguments.seats"),
        (
            {"seats": 2, "pair": [1, "b"]},
            ["tool-argument-wrong"],
            "messages[1].tool_calls[0].function.arguments.pair[1]",
        ),
        ({"when": "today"}, ["tool-argument-missing"], "messages[1].tool_calls[0].function.arguments"),
        ({"seats": 2, "wen": "today"}, ["tool-argument-unknown"], "messages[1].tool_calls[0].function.arguments.wen"),
        ({"seats": 2, "when": "todya"}, ["tool-argument-wrong"], "messages[1].tool_calls[0].function.arguments.when"),
    ],
)
def test_a_call_is_compared_with_its_schema(arguments: dict[str, Any], codes: list[str], field: str) -> None:
    found = called(arguments, BOOK)
    assert [finding.code for finding in found] == codes
    assert [finding.field for finding in found] == [field] * len(codes)


def test_the_cure_of_a_misspelt_argument_or_value_is_the_closest() -> None:
    assert called({"seats": 2, "wen": "today"}, BOOK)[0].fix == 'rename "wen" to "when"'
    assert called({"seats": 2, "when": "todya"}, BOOK)[0].fix == 'write "today"'


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"seats": {"type": "sometimes"}}},
        {"type": "object", "properties": {"seats": {"$ref": "http://127.0.0.1:9/x"}}},
        {"type": "object", "properties": {"seats": {"type": "string", "pattern": "("}}},
    ],
)
def test_a_schema_that_is_none_is_told_and_nothing_is_fetched(schema: dict[str, Any]) -> None:
    assert [finding.code for finding in called({"seats": "two"}, schema)] == ["tool-schema-invalid"]


def test_the_one_call_of_glaive_that_breaks_its_schema_is_found(test_data: Path) -> None:
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    rows: list[tuple[Row, Side]] = []
    file = test_data / "formats_llamafactory" / "glaive_toolcall_en_demo.json"
    for i, told in enumerate(json.loads(file.read_text()), 1):
        messages: list[dict[str, Any]] = []
        for turn in told["conversations"]:
            if turn["from"] == "function_call":
                messages.append({"role": "assistant", "content": "", "tool_calls": [json.loads(turn["value"])]})
            else:
                messages.append({"role": roles[turn["from"]], "content": turn["value"]})
        made = row_from({"tools": told["tools"], "messages": messages}, f"glaive:{i}")
        rows += [(made, "learnt")] if isinstance(made, Row) else []
    findings = Findings()
    check_rows(rows, findings, Figures())
    (found,) = findings.kept["tool-argument-wrong"]
    assert found.why == "it is [150, 350, 800]"
    assert not {code for code in findings.counts if code.startswith("tool")} - {"tool-argument-wrong"}


# Figures


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("The notice period is two weeks and it can be extended.", "English"),
        ("Die Kündigungsfrist ist nicht verlängert und beträgt zwei Wochen.", "German"),
        ("Le délai est de deux semaines et il ne peut pas être prolongé.", "French"),
        ("El plazo es de dos semanas y no se puede prolongar.", "Spanish"),
        ("Il termine è di due settimane e non può essere prolungato.", "Italian"),
        ("O prazo é de duas semanas e não pode ser prorrogado.", "Portuguese"),
        ("De termijn is twee weken en het kan niet worden verlengd.", "Dutch"),
        ("通知期为两周。", "Chinese"),
        ("通知期間は二週間です。", "Japanese"),
        ("통지 기간은 2주입니다.", "Korean"),
        ("Срок составляет две недели.", "Cyrillic"),
        ("ca. 14", "Latin letters"),
        ("42", "no letters"),
    ],
)
def test_a_language_is_guessed_by_script_and_common_words(text: str, guess: str) -> None:
    assert language(text) == guess


def test_labels_are_counted_and_the_majority_is_told() -> None:
    figures = Figures()
    for i in range(30):
        figures.see(row(f"Is it {i}?", "yes" if i % 3 else "no"), "learnt")
    assert figures.told()["labels"] == {"yes": 20, "no": 10}
    assert figures.told()["majority_share"] == pytest.approx(2 / 3)
