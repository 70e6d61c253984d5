"""Whether an answer is the expected one: thoughts cut, words, patterns, labels and JSON compared."""

from __future__ import annotations

import pytest

from finetune.evaluate import scores


@pytest.mark.parametrize(
    ("answer", "thinking", "said"),
    [
        ("blue", False, "blue"),
        ("why\n</think>\n\nblue", True, "blue"),
        ("a</think>b</think> c", True, "c"),
        ("it goes on and on", True, None),
        ("<think>\nonce more", False, None),
        ("<think>\nx\n</think>\n\nred", False, "red"),
        ("done</think>\n<think>again", True, None),
        ("</think>", True, ""),
    ],
)
def test_thoughts_are_cut_up_to_the_last_end_and_one_that_never_ends_is_no_answer(
    answer: str, thinking: bool, said: str | None
) -> None:
    assert scores.spoken(answer, thinking) == said


@pytest.mark.parametrize(
    ("said", "expected", "right"),
    [
        ("  Card arrival.", "card_arrival", True),
        ("“Yes!”", "yes", True),
        ("ＹＥＳ", "yes", True),  # full width
        ("-5", "5", False),
        ("1.5", "15", False),
        ("15 %", "15", True),
        ("15%", "15", False),
        ("42.", "42", True),
        ("蓝色。", "蓝色", True),
        ("+", "-", False),
        ("?!", "?!", True),
        ("", "yes", False),
        ("yes and no", "yes", False),
    ],
)
def test_words_are_compared_without_case_punctuation_and_spaces_but_numbers_keep_their_signs(
    said: str, expected: str, right: bool
) -> None:
    assert scores.exact(said, expected).right is right


def test_what_is_contained_is_whole_words() -> None:
    assert scores.contains("It is the Blue one.", "blue one").right
    assert not scores.contains("bluer", "blue").right


@pytest.mark.parametrize(
    ("said", "right", "why"),
    [
        ("so 3\n#### 42", True, ""),
        ("#### 41\nno, #### 42", True, ""),
        ("42", False, "no match"),
        ("#### 4", False, ""),
    ],
)
def test_a_pattern_counts_where_it_matches_last(said: str, right: bool, why: str) -> None:
    found = scores.by_pattern(said, "6 * 7\n#### 42", r"#### (-?\d+)")
    assert (found.right, found.why) == (right, why)


def test_an_expected_answer_without_the_pattern_is_taken_whole() -> None:
    assert scores.by_pattern("answer: B", "b", "answer: (.*)").right


LABELS = ("card", "card arrival", "yes", "no", "maybe")


@pytest.mark.parametrize(
    ("said", "first", "last"),
    [
        ("card arrival", "card arrival", "card arrival"),
        ("not yes but no", "yes", "no"),
        ("The card, I mean: card_arrival!", "card", "card arrival"),
        ("nothing", None, None),
        ("no no yes", "no", "yes"),
    ],
)
def test_a_choice_is_the_label_named_first_or_last_and_of_two_the_longer(
    said: str, first: str | None, last: str | None
) -> None:
    assert scores.chosen(said, LABELS, "first") == first
    assert scores.chosen(said, LABELS, "last") == last


def test_the_majority_is_counted_by_words() -> None:
    assert scores.majority(["Yes", "no", "yes.", "maybe"]) == ("Yes", 2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [1, 2]}', '{"b": [1, 2.0], "a": 1.0}', True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": null}', "{}", False),
        ("[1, 2]", "[2, 1]", False),
        ('```json\n{"a": "x"}\n```', '{"a": "x"}', True),
        ("Here: ```\n[1]\n``` done", "[1]", True),
    ],
)
def test_json_is_compared_by_value(one: str, other: str, same: bool) -> None:
    assert scores.same_json(scores.parsed(one), scores.parsed(other)) is same


@pytest.mark.parametrize("said", ["{", "{'a': 1}", "NaN", "", "```\n1\n```\n```\n2\n```", "[" * 100_000])
def test_what_is_not_json_is_told(said: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        scores.parsed(said)
