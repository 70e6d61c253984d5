"""A model as a judge of two answers: asked twice, the answers changed over, so that no place is an advantage.

Who wins both times wins; whatever else is said is a tie, and told how often. A judge likes length and its own kind, so
the lengths are told, and no rule of the gate can speak of it.

Source: Zheng et al. 2023, arXiv:2306.05685, section 3.4 (position bias, and answers swapped against it).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from finetune.completions import Busy, Refused, ask
from finetune.endpoints import Endpoint
from finetune.errors import OutsideError
from finetune.evaluate.items import Question
from finetune.evaluate.jobs import Job
from finetune.statistics import Interval, paired_mean, verdict, wilson

SYSTEM = (
    "You compare two answers to one question. Judge by whether an answer is right and does what was asked; the "
    "reference is one right answer, and others may be as right. Length is no merit, nor is the order in which they "
    "stand. Reply with one word: A, B or TIE."
)
ASKED = """\
Question:
{prompt}

Reference:
{expected}

Answer A:
{one}

Answer B:
{other}

Which is better: A, B or TIE?"""

PROMPT_SHA256 = hashlib.sha256(f"{SYSTEM}\0{ASKED}".encode()).hexdigest()
"""By which another judgement knows whether it was asked alike."""

NOTHING = "(nothing)"
"""What stands for an answer that is empty."""

AT_ONCE = 4
"""Questions that the judge is asked at once."""

TRIES = 6
"""For one question, waiting 1, 2, 4, … seconds between them."""

_VERDICT = re.compile(r"\b(A|B|TIE)\b")


@dataclass(frozen=True)
class Judged:
    """What was said of one item."""

    tuned: float
    """1 if the tuned model's answer is better, 0 if the base's is, 0.5 for a tie."""
    consistent: bool = True
    """Whether both orders led to the same."""
    understood: bool = True
    """Whether the judge said A, B or TIE."""


def judge_all(who: Endpoint, asked: Sequence[tuple[Question, str, str]], tell: Callable[[int], None]) -> list[Judged]:
    """Lets a judge compare the answers of the base and of the tuned model.

    Args:
        who: the judge.
        asked: of each item the question, the base's answer and the tuned model's.
        tell: is told of each that is done.

    Raises:
        OutsideError: the judge does not answer.
    """
    found = []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="judge") as pool:
        jobs = [pool.submit(_judge, who, *each) for each in asked]
        try:
            for job in jobs:
                found.append(job.result())
                tell(0)
        finally:
            for job in jobs:
                job.cancel()
    return found


def judge_told(job: Job, who: Endpoint, judged: Sequence[Judged], answers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Gives the task as it stands in evaluation.json.

    Args:
        job: of the judge.
        who: judged.
        judged: of each item.
        answers: of each item the base's and the tuned model's.
    """
    tuned = [each.tuned for each in judged]
    base = [1 - each for each in tuned]
    compared, share = paired_mean(base, tuned), wilson(sum(tuned), len(tuned))  # ties spread less than halves would
    compared = replace(compared, difference=Interval(*(2 * end - 1 for end in (share.value, share.low, share.high))))
    words = [sum(len(each[side].split()) for each in answers) / len(answers) for side in (0, 1)]
    pair = {"one": "base", "other": "tuned", "difference": asdict(compared.difference), "p": None}
    return {
        "name": job.name,
        "kind": job.kind,
        "set": job.set,
        "unit": "share preferred",
        "better": "higher",
        "items": len(judged),
        "data_sha256": job.data_sha256,
        "scores": {"base": asdict(wilson(sum(base), len(base))), "tuned": asdict(share)},
        "pairs": [{**pair, "sees": compared.sees, "verdict": verdict(compared, "higher")}],
        "flips": None,
        "judge": {
            "model": who.model,
            "prompt_sha256": PROMPT_SHA256,
            "wins": tuned.count(1.0),
            "losses": tuned.count(0.0),
            "ties": tuned.count(0.5),
            "inconsistent": sum(not each.consistent for each in judged),
            "not_understood": sum(not each.understood for each in judged),
            "words": {"base": round(words[0], 1), "tuned": round(words[1], 1)},
        },
    }


def _judge(who: Endpoint, asked: Question, base: str, tuned: str) -> Judged:
    """Asks in both orders; the same words need no judge."""
    if base == tuned:
        return Judged(0.5)
    first, second = _ask(who, asked, base, tuned), _ask(who, asked, tuned, base)
    if first is None or second is None:
        return Judged(0.5, understood=False)
    if (first, second) in (("B", "A"), ("A", "B")):
        return Judged(float(first == "B"))
    return Judged(0.5, consistent=first == second == "TIE")


def _ask(who: Endpoint, asked: Question, one: str, other: str) -> str | None:
    """Asks once; None if what the judge says is no verdict.

    Raises:
        OutsideError: it does not answer.
    """
    told = {"prompt": asked.prompt, "expected": asked.expected, "one": one or NOTHING, "other": other or NOTHING}
    text = ASKED.format(**told)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    why = ""
    for tried in range(TRIES):
        try:
            said = ask(who, messages, as_json=False, temperature=0.0).said
        except Busy as busy:
            why = busy.why
            time.sleep(min(busy.wait_seconds or 2.0**tried, 60.0))
            continue
        except Refused as refused:
            where, fix = who.url, "another --judge, or leave it out"
            raise OutsideError("the judge refuses what it is asked", where=where, why=refused.why, fix=fix) from refused
        found = _VERDICT.findall(said.rpartition("</think>")[2].strip())
        return found[-1] if len(set(found)) == 1 else None
    raise OutsideError("the judge does not answer", where=who.url, why=f"{TRIES} times; at last {why}")
