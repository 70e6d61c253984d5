"""How the files of a run must be made that a card is a view of; a stage writes more into them than is read here."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, ValidationError


class Part(BaseModel):
    """Something that stands in a file of figures, and may hold more than is read here."""

    model_config = ConfigDict(strict=True, extra="allow")


class Score(Part):
    """A figure; its interval is None where none was computed."""

    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None


class Pair(Part):
    """Two sides compared."""

    one: str
    other: str
    difference: Score
    p: FiniteFloat | None
    p_holm: FiniteFloat | None = None
    verdict: str
    sees: FiniteFloat | None


class Majority(Part):
    """What always saying one thing would score."""

    label: str
    share: FiniteFloat


class OfHub(Part):
    """A data set of the Hub."""

    dataset: str
    config: str


class Task(Part):
    """What was asked, and what came out."""

    name: str
    kind: str
    set: str
    unit: str
    better: str
    items: NonNegativeInt
    scores: dict[str, Score]
    pairs: list[Pair]
    majority: Majority | None = None
    hub: OfHub | None = None
    few_shot: list[Any] = []
    harness: str = ""
    file: str = ""


class Sampling(Part):
    """How answers were drawn."""

    max_new_tokens: NonNegativeInt


class Side(Part):
    """Who was asked."""

    engine: str = ""
    sha256: str = ""
    thinking: bool = False
    sampling: Sampling | None = None


class Gate(Part):
    """Rules, and which failed."""

    rules: list[str]
    failed: list[str]
    not_asked: list[str] = []


class Evaluation(Part):
    """evaluation.json."""

    made: str = ""
    sides: dict[str, Side]
    tasks: list[Task]
    gate: Gate
    notes: list[str]


class Step(Part):
    """A form of the model in the ledger."""

    name: str
    weights: str
    loss: Score | None = None
    kept: Score | None = None


class Examples(Part):
    """How many the ledger scored."""

    scored: NonNegativeInt
    learnt: NonNegativeInt


class Ledger(Part):
    """ledger.json."""

    steps: list[Step]
    examples: Examples
    unit: str
    intervals: str
    advice: list[str]


class Counted(Part):
    """What the head of a manifest tells of the rows."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rows: NonNegativeInt
    examples: NonNegativeInt
    held_out_rows: NonNegativeInt
    held_out_examples: NonNegativeInt
    tokens: NonNegativeInt
    learnt_tokens: NonNegativeInt
    longest: NonNegativeInt | None = None
    longest_held_out: NonNegativeInt | None = None
    dropped: NonNegativeInt = 0
    truncated: NonNegativeInt = 0
    with_reasoning: NonNegativeInt = 0


class Serving(Part):
    """How the model is to be asked."""

    thinking: bool
    preserve_thinking: bool
    system: str | None


class Contract(Part):
    """The hashes that a run began with."""

    recipe: str


class Stage(Part):
    """An entry."""

    stage: str
    outputs: dict[str, str]
    versions: dict[str, str]
    seconds: FiniteFloat
    finished: str


class Manifest(Part):
    """manifest.json."""

    data: Counted
    serving: Serving
    contract: Contract
    notes: list[str]
    stages: list[Stage]


def damage(value: Any, shape: type[Part]) -> str:
    """Says what in a file is not as a stage writes it; nothing if all is."""
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ""
