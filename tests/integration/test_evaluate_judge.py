"""A judge is asked in both orders: who wins twice wins, and what a place decides is a tie."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from teacher_server import Server, listening

from finetune.endpoints import Endpoint, endpoint
from finetune.errors import OutsideError, RecipeError
from finetune.evaluate import judging
from finetune.evaluate.items import Question, Rows
from finetune.evaluate.jobs import job_of_judge
from finetune.evaluate.judging import PROMPT_SHA256, Judged, judge_all, judge_told

QUESTIONS = tuple(Question(str(i), f"rows:{i}", (i,), f"colour {i}?", "blue", (), ()) for i in range(8))
ANSWERS = [("grey as a stone", "blue")] * 5 + [("blue", "the colour is grey")] * 2 + [("blue", "blue")]


def prefers_blue(text: str) -> str:
    one = re.search(r"Answer A:\n(.*)\n\nAnswer B:", text, re.DOTALL)
    assert one
    return "A" if one[1] == "blue" else "B"


def judged(reply: Callable[[str], str]) -> tuple[list[Judged], Endpoint, Server]:
    server = Server()
    server.reply, server.key = reply, "key"
    with listening(server) as url:
        who = endpoint(f"{url}/v1", "teacher", "key", option="--judge")
        asked = [(question, *both) for question, both in zip(QUESTIONS, ANSWERS, strict=True)]
        return judge_all(who, asked, lambda tokens: None), who, server


def test_the_better_answer_wins_in_whatever_place_it_stands() -> None:
    found, who, server = judged(prefers_blue)
    assert [each.tuned for each in found] == [1.0] * 5 + [0.0] * 2 + [0.5]
    assert len(server.requests) == 14, "the same words need no judge"
    assert {request["temperature"] for request in server.requests} == {0.0}
    told = judge_told(job_of_judge(Rows("held_out", QUESTIONS, ()), True), who, found, ANSWERS)
    assert told["scores"]["tuned"]["value"] == pytest.approx(5.5 / 8)
    assert told["pairs"][0]["difference"]["value"] == pytest.approx(3 / 8)
    assert told["pairs"][0]["verdict"] == "no evidence"
    judge = told["judge"]
    assert (judge["model"], judge["prompt_sha256"]) == ("teacher", PROMPT_SHA256)
    assert (judge["wins"], judge["losses"], judge["ties"], judge["inconsistent"]) == (5, 2, 1, 0)
    assert judge["words"] == {"base": 2.9, "tuned": 1.8}  # 23 and 14 of 8


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda text: "A", Judged(0.5, consistent=False)),
        (lambda text: "TIE", Judged(0.5)),
        (lambda text: "<think>A? B?</think>\n\nB", Judged(0.5, consistent=False)),
        (lambda text: "I like A more than B.", Judged(0.5, understood=False)),
        (lambda text: "neither", Judged(0.5, understood=False)),
    ],
)
def test_what_is_not_said_in_both_orders_is_a_tie(reply: Callable[[str], str], expected: Judged) -> None:
    found, _, _ = judged(reply)
    assert found[:-1] == [expected] * 7


def test_a_busy_judge_is_asked_again_and_one_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging.time, "sleep", lambda seconds: None)
    server = Server()
    server.reply = prefers_blue
    server.fault = lambda server, passage, times: "503" if times == 1 else ""
    with listening(server) as url:
        who = endpoint(url, "teacher", option="--judge")
        assert judge_all(who, [(QUESTIONS[0], "grey", "blue")], lambda tokens: None) == [Judged(1.0)]
        server.fault = lambda server, passage, times: "400"
        with pytest.raises(OutsideError, match="the judge refuses what it is asked"):
            judge_all(who, [(QUESTIONS[0], "grey", "blue")], lambda tokens: None)


def test_a_judge_is_told_by_its_own_option_and_needs_a_base() -> None:
    with pytest.raises(RecipeError, match="--judge is the URL of a server"):
        endpoint("localhost:1", "m", option="--judge")
    with pytest.raises(RecipeError, match="a judge needs the base"):
        job_of_judge(Rows("held_out", QUESTIONS, ()), False)
