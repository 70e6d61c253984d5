"""The section `evaluate`: by which tasks a tuned model is compared with its base, and what fails the gate."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from finetune.recipe.gate import SCORES, Score, WrongRule, read_rule
from finetune.recipe.section import Columns, File, Section


def _pattern(text: str) -> str:
    """Refuses what is no regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise PydanticCustomError("pattern", "{why}", {"why": f"it is no regular expression: {error}"}) from None
    return text


def _word(word: str) -> str:
    """Refuses the name of a score that there is not."""
    if word in SCORES:
        return word
    why = f"a task is one of {', '.join(SCORES)}, or {{score: ..., file: ...}}"
    raise PydanticCustomError("task", "{why}", {"why": why, "nearest": nearest_score(word)})


def _rule(text: str) -> str:
    """Refuses what is no rule of a gate."""
    try:
        return read_rule(text).text
    except WrongRule as wrong:
        raise PydanticCustomError("rule", "{why}", {"why": wrong.why, "nearest": wrong.nearest}) from None


def nearest_score(word: str) -> str:
    """Finds the score that a word probably means."""
    lowered = word.lower().replace("-", "_")
    meant = {"accuracy": "exact", "exact_match": "exact", "em": "exact", "perplexity": "loss", "tools": "tool_call"}
    close = difflib.get_close_matches(lowered, SCORES, n=1, cutoff=0.4)
    return meant.get(lowered) or (close[0] if close else "exact")


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$")]


class Task(Section):
    """One way to compare answers or losses, on one set of rows."""

    score: Score
    """What is measured."""
    file: File | None = None
    """Rows that are asked. Default: those that training held out."""
    set: Literal["domain", "regression"] = "domain"
    """`regression` for what the model could do before and should not forget."""
    name: Name | None = None
    """How it is called. Default: the set or the file, and the score."""
    pattern: Annotated[str, Field(min_length=1), AfterValidator(_pattern)] | None = None
    """Of `regex`: what is compared is its first group in the last place where it matches."""
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Of `choice`: what can be chosen. Default: the answers of the rows."""
    named: Literal["first", "last"] = "last"
    """Of `choice`: which label counts where an answer names several."""
    json_schema: File | None = None
    """Of `json`: a file with a JSON Schema that answers must keep."""
    columns: Columns | None = None
    """Of `file`: which columns are what, as in `data.columns`."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Task:
        if (self.score == "regex") != (self.pattern is not None):
            raise PydanticCustomError("needs", "a regex has a pattern, and no other score has one")
        if self.labels is not None and self.score != "choice":
            raise PydanticCustomError("needs", "labels are those of a choice")
        if self.json_schema is not None and self.score != "json":
            raise PydanticCustomError("needs", "a json_schema is that of the score json")
        if self.columns is not None and self.file is None:
            raise PydanticCustomError("needs", "columns are those of a file")
        return self


class HarnessTask(Section):
    """A task of lm-evaluation-harness, asked of each side as everything else is."""

    lm_eval: Annotated[str, Field(pattern=r"^\S.{0,500}$")]
    """Its name there, a group's or a tag's, or a YAML file in the harness's own form."""
    metric: Annotated[str, Field(min_length=1)] | None = None
    """Which figure of an item counts, with its filter after a comma: `exact_match,strict-match`. Default: the first."""
    few_shot: Annotated[int, Field(ge=0, le=64)] | None = None
    """Examples before the question, as turns of their own. Default: as the task says."""
    set: Literal["domain", "regression"] = "regression"
    """`domain` where it asks for what the tuning should teach."""
    name: Name | None = None
    """How it is called. Default: as in the harness."""


def _kind_of_task(given: Any) -> str:
    if isinstance(given, HarnessTask) or (isinstance(given, dict) and "lm_eval" in given):
        return "benchmark"
    return "task" if isinstance(given, dict | Task) else "word"


OneTask = Annotated[
    Annotated[str, AfterValidator(_word), Tag("word")]
    | Annotated[Task, Tag("task")]
    | Annotated[HarnessTask, Tag("benchmark")],
    Discriminator(_kind_of_task),
]


class Evaluate(Section):
    """How base and tuned model are compared."""

    tasks: Annotated[tuple[OneTask, ...], Field(min_length=1)] | None = None
    """Scores of held-out rows, `{score, file, set, ...}` or `{lm_eval: gsm8k}`; see docs/evaluate.md. Default: what the
    rows allow."""
    fail_if: tuple[Annotated[str, AfterValidator(_rule)], ...] = ()
    """Rules that fail the evaluation, such as `regression exact drops more than 0.02`."""
