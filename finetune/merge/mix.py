"""Which adapters are asked for, by what weights and how: the words of a command, before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.merge.deltas import Method
from finetune.run import Run

MOST_NAMES = 3
"""In the name of a folder."""


@dataclass(frozen=True)
class Mix:
    """What becomes one with a run's adapter."""

    weight: float = 1.0
    """Of the run's own."""
    others: tuple[tuple[Path, float], ...] = ()
    """Folders of runs or adapters, each with its weight."""
    method: Method = "linear"
    density: float | None = None
    """Share of each delta that `ties` and `dare` keep."""

    @property
    def alone(self) -> bool:
        """Tells whether it is the run's adapter as it is."""
        return not self.others and self.weight == 1 and self.method == "linear"

    def words(self, run: Run) -> list[str]:
        """Gives the words of a command that ask for it."""
        words = [_word(run.path, self.weight), *(_word(path, weight) for path, weight in self.others)]
        words += ["--method", self.method] if self.method != "linear" else []
        return words + (["--density", repr(self.density)] if self.density is not None else [])

    def folder(self, run: Run, kind: str) -> Path:
        """Gives the folder that is made where none is named.

        Args:
            run: in whose folder it lies.
            kind: merged or adapter, as the run's own is called.
        """
        if self.alone:
            return run.path / kind
        names = [name_of(path) for path, _ in self.others]
        if len(names) > MOST_NAMES:
            names = [str(len(names)), "others"]
        return run.path / "-".join([kind, "with", *names] if names else [kind, f"{self.weight:g}"])


ALONE = Mix()


def name_of(path: Path) -> str:
    """Names a run, or a folder with an adapter; one that is called just `adapter` by the folder around it."""
    whole = path.absolute()
    return whole.parent.name if whole.name == "adapter" else whole.name


def _word(path: Path, weight: float) -> str:
    return str(path) if weight == 1 else f"{path}={weight!r}"
