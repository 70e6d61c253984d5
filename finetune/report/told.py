"""What the page reads of manifest, ledger and router report, so that a damaged one is refused and not half shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from finetune.statistics import Interval

Count = Annotated[int, Field(ge=0)]
Figure = bool | int | float | str | None


@dataclass(frozen=True)
class Counted:
    """What became of the rows."""

    rows: Count
    held_out_rows: Count
    examples: Count
    held_out_examples: Count
    longest: Count
    dropped: Count
    truncated: Count
    with_reasoning: Count
    tokens: Count | None = None
    learnt_tokens: Count | None = None


@dataclass(frozen=True)
class Proven:
    """A claim of a stage."""

    claim: str
    measured: Figure
    tolerance: Figure
    holds: bool


@dataclass(frozen=True)
class Stage:
    """A stage that finished."""

    stage: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    claims: tuple[Proven, ...]
    versions: dict[str, str]
    seconds: Annotated[float, Field(ge=0)]
    finished: str


@dataclass(frozen=True)
class Chain:
    """The manifest."""

    run: str
    created: str
    notes: tuple[str, ...]
    stages: tuple[Stage, ...]
    data: Counted | None = None


@dataclass(frozen=True)
class Scored:
    """Of how many held-out examples a ledger is."""

    scored: Count
    of: Count


@dataclass(frozen=True)
class Form:
    """One form of the model, and what it keeps of the tuning."""

    name: str
    weights: str
    engine: str
    bytes: Count | None = None
    not_measured: str | None = None
    loss: Interval | None = None
    from_trained: Interval | None = None
    kept: Interval | None = None


@dataclass(frozen=True)
class Ledger:
    """The ledger."""

    examples: Scored
    unit: str
    steps: tuple[Form, ...]
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load:
    """How unevenly a layer's experts are asked."""

    skew: float


@dataclass(frozen=True)
class Layer:
    """What training did to the router of a layer."""

    before: Load
    after: Load
    rerouted: float


@dataclass(frozen=True)
class Loads(Load):
    """The same of all layers."""

    idle: Count


@dataclass(frozen=True)
class Summary:
    """What training did to all routers."""

    before: Loads
    after: Loads
    rerouted: float
    experts: Count


@dataclass(frozen=True)
class Asked:
    """The rows that the routers were asked."""

    tokens: Count
    of: str
    """Held-out rows, or those of training."""


@dataclass(frozen=True)
class Routers:
    """The report of a mixture's routers."""

    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    summary: Summary
    rows: Asked


CHAIN, LEDGER, ROUTERS = TypeAdapter(Chain), TypeAdapter(Ledger), TypeAdapter(Routers)
