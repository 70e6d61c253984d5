"""The rules of a gate, in words: `regression exact drops more than 0.02`, `held_out loss does not fall`.

    rule    = subject verb
    subject = name of a task, or: [held_out | regression] score
    score   = loss | exact | regex | choice | json | tool_call | contains
    verb    = drops more than NUMBER | rises more than NUMBER | does not rise | does not fall
            | is below NUMBER | is above NUMBER

NUMBER is in the task's own unit: 0.02 of a share is 2 points, 0.02 of a loss is 0.02 nats a token. Here a rule is read;
whether one failed is for the evaluation to say.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Score = Literal["loss", "exact", "regex", "choice", "json", "tool_call", "contains"]
Verb = Literal["drops more than", "rises more than", "does not rise", "does not fall", "is below", "is above"]

SCORES: tuple[Score, ...] = get_args(Score)
VERBS: tuple[Verb, ...] = get_args(Verb)
SETS = {"held_out": "domain", "domain": "domain", "regression": "regression"}
"""How a rule names a set of rows, and the set's own word."""

WITHOUT_NUMBER: tuple[Verb, ...] = ("does not rise", "does not fall")
EXAMPLE = "held_out loss does not fall"

_RULE = re.compile(rf"(?P<subject>.+?)\s+(?P<verb>{'|'.join(VERBS).replace(' ', '[ ]+')})(?:\s+(?P<number>\S+))?")


@dataclass(frozen=True)
class Rule:
    """One rule of the gate."""

    text: str
    subject: str
    verb: Verb
    number: float = 0.0

    @property
    def compares(self) -> bool:
        """Whether it speaks of a change, and so needs the base."""
        return not self.verb.startswith("is ")


class WrongRule(ValueError):
    """A text is no rule; why, and the nearest one."""

    def __init__(self, why: str, nearest: str) -> None:
        super().__init__(why)
        self.why, self.nearest = why, nearest


def read_rule(text: str) -> Rule:
    """Reads a rule.

    Raises:
        WrongRule: it is none.
    """
    told = " ".join(text.split())
    found = _RULE.fullmatch(told)
    if found is None:
        raise WrongRule(f"it ends with one of: {', '.join(VERBS)}", _nearest(told))
    verb: Verb = next(each for each in VERBS if each == found["verb"])
    subject, number = found["subject"], found["number"]
    if verb in WITHOUT_NUMBER:
        if number is not None:
            raise WrongRule(f"nothing comes after {verb!r}", f"{subject} {verb}")
        return Rule(told, subject, verb)
    try:
        value = float(number) if number and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", number) else None
    except ValueError:
        value = None
    if value is None:
        why = f"a number comes after {verb!r}, such as 0.02"
        points = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*(?:%|points?|pt)", (number or "").strip())
        raise WrongRule(why, f"{subject} {verb} {float(points[1]) / 100:g}" if points else f"{subject} {verb} 0.02")
    return Rule(told, subject, verb, value)


def failed_rules(rules: Iterable[str], failures: Collection[str]) -> list[str]:
    """Lists the rules that failed, each once.

    Args:
        rules: that were judged.
        failures: what failed, each beginning with its rule; a rule may fail on several tasks and sides.
    """
    return [rule for rule in rules if any(f"{told}: ".startswith(f"{rule}: ") for told in failures)]


def of_set(subject: str) -> tuple[str | None, str] | None:
    """Reads a subject as [set] score; None where it is neither, and so a task's name."""
    words = subject.split()
    if not words or words[-1] not in SCORES or len(words) > 2:
        return None
    if len(words) == 1:
        return None, words[0]
    return (SETS[words[0]], words[1]) if words[0] in SETS else None


def _nearest(told: str) -> str:
    """Finds the rule that was probably meant."""
    words = told.split()
    head = next((n for n, word in enumerate(words) if word in SCORES), -1)
    subject = " ".join(words[: head + 1]) or "held_out loss"
    said = " ".join(words[head + 1 :]).replace("falls more", "drops more")
    close = difflib.get_close_matches(said, VERBS, n=1, cutoff=0.3)
    verb = close[0] if close else "does not fall" if subject.endswith("loss") else "drops more than"
    number = next((word for word in words if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", word)), "0.02")
    return f"{subject} {verb}" if verb in WITHOUT_NUMBER else f"{subject} {verb} {number}"
