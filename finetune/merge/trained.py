"""What method `full` trained, as it lies in the run: every weight of the text model, read a few rows at a time.

An adapter adds to a weight, and a mean square error says how near what was merged is. Here the weight takes the base's
place, rounded once to the dtype on disk; so what is read back must be equal, number for number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.errors import ArtifactError, ProofFailed
from finetune.merge.changes import CPU, Change, Changes
from finetune.merge.weights import Weights
from finetune.model.streaming import DTYPES
from finetune.run import Run, anew
from finetune.shards import Stored


@dataclass(frozen=True)
class Replaced:
    """A weight that takes the place of the base's, read from the disk when it is asked for."""

    weights: Weights
    name: str

    def apply(self, first: int, rows: torch.Tensor) -> torch.Tensor:
        """The trained rows, whatever was there."""
        return self.weights.part(self.name, first, first + len(rows))


class Trained:
    """The weights of a run of method `full`, as what changes its base."""

    def __init__(self, run: Run) -> None:
        """Finds every weight, and reads none.

        Raises:
            ArtifactError: they are not those of a text model, or there is something besides.
        """
        self.run, folder = run, run.weights
        try:
            self.weights = Weights(folder)
        except ArtifactError as error:
            problem = error.problems[0]  # which takes the folder for a base, and would have it fetched anew
            why = f"{problem.what.replace('the base', 'the folder')}: {problem.why}"
            raise self._wrong(why, Path(problem.where)) from error
        if strange := sorted(t.name for t in self.weights.tensors if t not in self.weights.parts):
            raise self._wrong(f"{len(strange)} of their tensors have no place in it, first {strange[0]}", folder)

    def place(self, parameters: Mapping[str, tuple[int, ...]]) -> set[str]:
        """Lists the weights of the base, all of which it replaces.

        Raises:
            ArtifactError: it lacks some, holds others, or has them in other shapes.
        """
        found = self.weights.parameters
        if found != parameters:
            away = sorted(name for name in found.keys() | parameters.keys() if found.get(name) != parameters.get(name))
            told = (
                f"{away[0]} is {found.get(away[0], 'not there')} and in the base {parameters.get(away[0], 'nothing')}"
            )
            raise self._wrong(f"{len(away)} weights differ: {told}", self.weights.folder)
        return set(found)

    def change(self, name: str, num_experts: int = 0, device: torch.device = CPU) -> Change:
        """Gives what takes the place of one weight; its rows come on the CPU, for it is written and never run so."""
        return Replaced(self.weights, name)

    def _wrong(self, why: str, where: Path) -> ArtifactError:
        what, fix = "the trained weights are not a model of this base", f"train anew: {anew(self.run)}"
        return ArtifactError(what, where=str(where), why=why, fix=fix)


@dataclass(frozen=True)
class Tuned:
    """The model as training left it, to be run from disk."""

    told: str
    """What it is, in words."""
    weights: Weights
    """The base's, or its own."""
    beside: Changes | None
    """What works beside the base's."""


def compare_trained(
    base: Weights, merged: Weights, trained: Trained, touched: dict[Stored, bool], told: Callable[[int], None]
) -> tuple[str, ...]:
    """Compares every tensor of the text model with what was trained, rounded once to the dtype that the base has.

    Args:
        base: whose names, places and dtypes they have.
        merged: what came of it.
        trained: by the run.
        touched: tensors of the base.
        told: is told the bytes of each piece.

    Returns:
        Names of the tensors that are the base's all the same: what they learnt is smaller than their precision.

    Raises:
        ProofFailed: a number is another, or too large for the dtype.
    """
    made, unchanged = {tensor.name: tensor for tensor in merged.tensors}, []
    for tensor in touched:
        part, new, same = base.parts[tensor], made[tensor.name], True
        for first, rows in base.pieces(tensor):
            found = merged.stretch(new, first - part.first, len(rows))
            wanted = trained.weights.part(part.name, first, first + len(rows)).to(DTYPES[new.dtype]).float()
            if not torch.equal(found, wanted) or not torch.isfinite(found).all():
                why = f"a number is not the trained one rounded to {new.dtype}, or is not finite in it"
                raise ProofFailed(f"{tensor.name} is not what was trained", where=str(new.file), why=why)
            same = same and torch.equal(found, rows)
            told(len(rows) * new.row_bytes)
        if same:
            unchanged.append(tensor.name)
    return tuple(unchanged)
