"""The chain of proofs: one entry for each stage that finished. A stage without an entry did not happen.

Entries are only ever added, by the holder of the run's lock, when everything they speak of is on the disk.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from finetune import atomic
from finetune.errors import ArtifactError

FORMAT = 1
"""Grows when a reader of the old form could not read the new one."""

OWN = frozenset({"format", "run", "created", "stages"})
"""What this room writes itself; the other keys at the head are the caller's facts."""


BEGUN = {
    "serving": {"thinking", "preserve_thinking", "system"},
    "contract": {"wishes", "plan", "data", "template", "tokenizer", "base", "device", "versions", "threads"},
}
"""What the head of a run that training began holds, and the least that each part of it tells."""


HASHES = ("plan", "data", "template", "tokenizer", "base")
"""Of the contract, what is compared as a hash."""


class Claim(TypedDict):
    """One thing a stage says of what it made, and the figure behind it, which is finite: JSON has no NaN."""

    claim: str
    measured: float | int | str | bool | None
    tolerance: float | int | str | None
    holds: bool


def claim(
    told: str, measured: float | int | str | bool, tolerance: float | None = None, *, holds: bool = True
) -> Claim:
    """Makes a claim; one that was held to its tolerance before, or has none, holds."""
    return {"claim": told, "measured": measured, "tolerance": tolerance, "holds": holds}


@dataclass(frozen=True)
class Entry:
    """One stage that finished."""

    stage: str
    """The verb: data, plan, train, merge, …"""
    inputs: dict[str, Any]
    """What went in: name -> hash, or a few words."""
    outputs: dict[str, Any]
    """What came out: name -> hash, or a few words."""
    claims: list[Claim]
    """What was proven of it, with the measured figures."""
    versions: dict[str, str]
    """Packages that took part -> version."""
    seconds: float
    """From the stage's begin to its end."""
    finished: str
    """When, as `now()` gives it."""


def now() -> str:
    """The time in UTC, in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def head(run: str, facts: dict[str, Any]) -> dict[str, Any]:
    """A manifest without stages yet."""
    assert not OWN & facts.keys(), f"written by this room: {sorted(OWN & facts.keys())}"
    return {"format": FORMAT, "run": run, "created": now(), **facts, "stages": []}


def read(path: Path) -> dict[str, Any]:
    """The whole manifest.

    Raises:
        ArtifactError: the file is missing, damaged, or of a format this version does not know.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _refusal(path, "it is missing") from None
    except OSError as error:
        raise _refusal(path, str(error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"it is not JSON: {error}") from error
    if not isinstance(value, dict) or not value.keys() >= OWN:
        raise _refusal(path, f"it lacks one of {', '.join(sorted(OWN))}")
    if value["format"] != FORMAT:
        raise _refusal(path, f"its format is {value['format']!r}, this version reads {FORMAT}")
    if not isinstance(value["stages"], list) or not all(_is_stage(stage) for stage in value["stages"]):
        raise _refusal(path, "one of its stages is not an entry")
    return value


def read_begun(path: Path) -> dict[str, Any]:
    """The whole manifest of a run that training began: it tells how to ask the model and what a resume is held to.

    Raises:
        ArtifactError: as `read` does, or one of these is missing.
    """
    value = read_chain(path)
    if not isinstance(value.get("notes"), list):
        raise _refusal(path, "it lacks the list of notes")
    return value


def read_chain(path: Path) -> dict[str, Any]:
    """The same without the notes, which a published manifest lacks: they name files and lines of rows.

    Raises:
        ArtifactError: as `read_begun` does.
    """
    value = read(path)
    for part, keys in BEGUN.items():
        if not isinstance(value.get(part), dict) or not value[part].keys() >= keys:
            raise _refusal(path, f"its {part} lacks one of {', '.join(sorted(keys))}")
    if wrong := [key for key in HASHES if not isinstance(value["contract"][key], str)]:
        raise _refusal(path, f"its contract's {wrong[0]} is no hash")
    return value


def add(path: Path, entry: Entry) -> None:
    """Adds an entry behind those there are; a stage done twice has two.

    Raises:
        ArtifactError: the manifest is damaged; it is left as it is.
        DoesNotFit: the disk or the quota is full; the manifest is left as it is.
    """
    value = read(path)
    value["stages"].append(asdict(entry))
    atomic.write_json(path, value)


def _is_stage(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() >= Entry.__dataclass_fields__.keys()
        and isinstance(value["seconds"], int | float)
        and isinstance(value["stage"], str)
        and isinstance(value["inputs"], dict)
        and isinstance(value["outputs"], dict)
        and isinstance(value["claims"], list)
        and all(isinstance(claim, dict) and claim.keys() >= Claim.__annotations__.keys() for claim in value["claims"])
    )


def _refusal(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        "the run's manifest cannot be read",
        where=str(path),
        why=why,
        fix=f"put {path.name} back from a copy, or start a new run from {path.parent / 'recipe.yaml'}",
    )
