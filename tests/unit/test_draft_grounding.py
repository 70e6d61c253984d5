"""What rests on its passage is kept; what is made up, refused or points at an unseen passage is dropped and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.draft.chunks import chunks_of
from finetune.draft.documents import markdown
from finetune.draft.grounding import FEWEST_SHARED, find_quote, made_up_numbers, passage, shared_words
from finetune.draft.journal import Reply
from finetune.draft.phrases import pointing, refusal
from finetune.draft.prompt import identity
from finetune.draft.reply import Pair, Unparsable, pairs
from finetune.draft.settings import Kind, Settings
from finetune.draft.sifting import Sifted, sift

TEXT = """# Warranty

The **warranty** lasts 24 months from the day of purchase, and covers the
“pump” and the motor. Repairs cost at most 1,250.50 euros; see [the list](https://x.example/a_b).

保修期为两年，电池不在保修范围内。
"""


def found(quote: str, text: str = TEXT) -> str | None:
    span = find_quote(quote, passage(text))
    return None if span is None else text[span[0] : span[1]]


@pytest.mark.parametrize(
    ("quote", "stands"),
    [
        ("The warranty lasts 24 months", "The **warranty** lasts 24 months"),
        ('covers the "pump" and the Motor.', "covers the\n“pump” and the motor"),
        ("see the list", "see [the list"),
        ("电池不在保修范围内。", "电池不在保修范围内"),
        ("the warranty lasts", "The **warranty** lasts"),
        ("lasts 24", None),  # two words
        ("The warranty lasts 36 months", None),  # short, so it must be exact
        ("", None),
    ],
)
def test_a_quote_stands_whatever_its_marks_case_and_line_ends(quote: str, stands: str | None) -> None:
    assert found(quote) == stands


def test_one_word_in_ten_of_a_long_quote_may_differ_and_no_more() -> None:
    long = "The warranty lasts 24 months from the day of purchase and covers the pump and the motor"
    assert len(long.split()) == 17
    assert found(long.replace("covers", "includes")) is not None
    assert found(long.replace("covers", "includes").replace("pump", "fan")) is None


def test_a_word_that_a_pdf_hyphenated_at_the_line_end_is_one_word() -> None:
    assert found("the information is kept", "Here the informa-\ntion is kept.") == "the informa-\ntion is kept"


@pytest.mark.parametrize(
    ("answer", "made_up"),
    [
        ("24 months, at most 1250.50 euros", []),
        ("24 months, at most 1.250,50 euros", []),
        ("36 months or 24", ["36"]),
        ("1. The pump\n2. The motor", []),
        ("It costs 125050", ["125050"]),
        ("２４ months", []),
    ],
)
def test_numbers_are_compared_however_they_are_grouped(answer: str, made_up: list[str]) -> None:
    assert made_up_numbers(answer, passage(TEXT)) == made_up


def test_a_space_between_thousands_and_the_number_of_a_heading_are_known() -> None:
    known = passage("It weighs 10 000 kg.", above="Model 300")
    assert made_up_numbers("The Model 300 weighs 10,000 kg.", known) == []


def test_words_are_compared_by_their_beginnings_and_chinese_by_two_characters() -> None:
    known = passage(TEXT)
    assert shared_words("Repairing motors and pumps", known) == pytest.approx(
        2 / 3
    )  # pumps has five letters, pump four
    assert shared_words("Yes", known) == 1
    assert shared_words("电池不在保修范围内", known) == 1
    assert shared_words("天气很好", known) == 0


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I have no opinion.",
        "I cannot answer that.",
        "I'm sorry, but I can't help with that.",
        "The price is not mentioned in the passage.",
        "The colour isn't explicitly stated in the given text.",
        "The passage does not provide a date.",
        "The text doesn't explicitly mention it.",
        "There is no information about that.",
        "Als KI habe ich keine Meinung.",
        "Ich kann das leider nicht beantworten.",
        "Es tut mir leid, das weiß ich nicht.",
        "Das wird im Text nicht erwähnt.",
        "Der Preis ist nicht im Text angegeben.",
        "Der Text enthält dazu keine Angaben.",
        "Das geht aus dem Text nicht hervor.",
        "作为一个人工智能语言模型，我没有看法。",
        "很抱歉，我不知道。",
        "文中没有提到价格。",
        "无法确定具体日期。",
    ],
)
def test_a_refusal_is_known_in_three_languages(answer: str) -> None:
    assert refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "The tenant cannot sublet without consent.",
        "You cannot open the valve while it is hot; say sorry to nobody.",
        "If the date is not stated in the contract, the law applies.",
        "Der Mieter kann die Wohnung nicht untervermieten.",
        "Das Dokument wird nicht im Archiv abgelegt.",
        "租客不能转租房屋。",
        "The form was not provided by the tenant.",
    ],
)
def test_a_sentence_that_denies_is_no_refusal(answer: str) -> None:
    assert refusal(answer) == ""


@pytest.mark.parametrize(
    "said",
    [
        "According to the passage, how long is the warranty?",
        "What does the text say about pumps?",
        "What is described in the document?",
        "Which tools are mentioned above?",
        "What is the topic of this section?",
        "Was steht laut dem Text in der Garantie?",
        "Was wird in diesem Abschnitt beschrieben?",
        "Welche oben genannten Teile sind gedeckt?",
        "根据文章，保修期多长？",
        "上述设备的保修期是多久？",
        "Who is the author thinking of?",
    ],
)
def test_a_question_that_points_at_a_passage_is_known(said: str) -> None:
    assert pointing(said, TEXT)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("How long does the warranty last?", TEXT),
        ("What must the document of purchase show?", "The document of purchase shows the date."),
        ("How is the text aligned?", "The editor aligns the text to the left."),
        ("Was passiert nach dem Kauf?", TEXT),
        ("保修期多长？", TEXT),
    ],
)
def test_a_question_that_stands_alone_is_left(said: str, text: str) -> None:
    assert pointing(said, text) == ""


PAIR = {"question": "How long is the warranty?", "answer": "It lasts 24 months.", "quote": "warranty lasts 24 months"}


@pytest.mark.parametrize(
    "said",
    [
        json.dumps({"pairs": [PAIR]}),
        f"Sure, here you are:\n```json\n{json.dumps([PAIR], indent=2)}\n```\nAnything else?",
        f"<think>I could say {{'a': 1}}</think>\n{json.dumps(PAIR)}",
        f"thoughts that began in the prompt</think>{json.dumps({'questions': [PAIR], 'note': ''})}",
        f"[1] {json.dumps({'pairs': [PAIR]})}",
    ],
)
def test_pairs_are_found_in_every_wrapping(said: str) -> None:
    assert pairs(said) == [Pair(**PAIR)]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "it is empty"),
        ("<think>hm", "it is all thought"),
        ("I will not.", "it holds no JSON"),
        ('{"pairs": [{"question": "a', "its JSON is broken"),
        ("[" * 100_000, "its JSON is broken"),
        ("{" * 5000, "its JSON is broken"),
    ],
)
def test_a_reply_without_pairs_is_told(said: str, why: str) -> None:
    with pytest.raises(Unparsable, match=why):
        pairs(said)


def test_the_bound_parts_own_answers_from_those_to_other_abstracts(test_data: Path) -> None:
    file = test_data / "medical_pubmedqa" / "ori_pqal.json"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    told = list(json.loads(file.read_text()).values())
    known = [passage("\n".join(one["CONTEXTS"])) for one in told]
    answers = [one["LONG_ANSWER"] for one in told]
    own = sum(shared_words(a, k) >= FEWEST_SHARED for a, k in zip(answers, known, strict=True))
    other = sum(shared_words(a, k) >= FEWEST_SHARED for a, k in zip(answers[1:] + answers[:1], known, strict=True))
    assert (own, other) == (872, 6)


def sifted(*told: Any, kind: Kind = Kind.qa, language: str = "", said: str | None = None) -> Sifted:
    settings = Settings("m", kind, language=language)
    (chunk,) = chunks_of(markdown("guide.md", TEXT), 800)
    reply = Reply(said or json.dumps({"pairs": told}), "m", "stop", 1, 1, True, 0.1)
    name = identity(chunk, settings)
    return sift({name: chunk}, {name: reply}, settings)


def test_a_kept_row_tells_file_heading_lines_and_quote() -> None:
    (row,) = sifted(PAIR).kept
    assert row["prompt"] == PAIR["question"]
    assert row["completion"] == PAIR["answer"]
    source = row["source"]
    assert {key: source[key] for key in ("file", "heading", "lines", "quote", "model")} == {
        "file": "guide.md",
        "heading": ["Warranty"],
        "lines": [3, 3],
        "quote": PAIR["quote"],
        "model": "m",
    }


def test_an_instruction_holds_its_passage_and_may_speak_of_it() -> None:
    (row,) = sifted(PAIR | {"question": "Summarise this passage."}, kind=Kind.instruction).kept
    assert row["prompt"] == f"Summarise this passage.\n\n{TEXT.strip()}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quote": "The warranty lasts forever"}, "the quote does not stand in the passage"),
        ({"answer": "It lasts 36 months."}, "a number of the answer does not stand in the passage"),
        ({"answer": "Elephants wander through savannas."}, "too few words of the answer stand in the passage"),
        ({"answer": "I cannot say."}, "a refusal"),
        ({"answer": " "}, "question or answer is empty"),
        ({"answer": None}, "question, answer or quote is missing"),
        ({"answer": "It lasts \ud800 months."}, "question, answer or quote is missing"),
        ({"question": "What does the passage say?"}, "speaks of a passage that is not there"),
    ],
)
def test_what_is_dropped_is_kept_apart_with_its_reason(change: dict[str, Any], reason: str) -> None:
    result = sifted(PAIR | change)
    assert result.kept == []
    assert [told["reason"] for told in result.rejected] == [reason]


def test_the_same_question_again_is_dropped_and_nothing_is_lost() -> None:
    result = sifted(PAIR, PAIR | {"question": "how long is the WARRANTY"}, "no pair", 7, {"odd": 1})
    assert len(result.kept) == 1
    assert [told["reason"] for told in result.rejected] == [
        "asked before",
        *["question, answer or quote is missing"] * 3,
    ]


def test_words_are_not_compared_when_another_language_was_asked_for() -> None:
    german = PAIR | {"answer": "Die Garantie gilt 24 Monate ab Kaufdatum."}
    assert sifted(german).kept == []
    assert len(sifted(german, language="German").kept) == 1


def test_an_unreadable_reply_is_kept_whole() -> None:
    (told,) = sifted(said="Nothing to see.").rejected
    assert (told["reason"], told["reply"]) == ("the reply is not readable", "Nothing to see.")
