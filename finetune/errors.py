"""What can go wrong, as the person who typed the command should read it.

A user's mistake is told in at most four lines: what, where, why, and a fix to copy.
A bug in this package is never one of these: it keeps its traceback.

    FinetuneError             exit code
    ├── RecipeError           2    the recipe, or a word on the command line
    ├── DataError             3    a row, a file of rows, or what they teach
    ├── DoesNotFit            4    memory or disk
    ├── OutsideError          5    another tool, a package or a service
    ├── ArtifactError         6    a base, an adapter, a checkpoint or a run folder
    ├── TrainingStopped       7    NaN, a dead gradient: training that is not training
    ├── ProofFailed           8    a gate or a proof said no
    ├── RunLocked             73   another process works in this run folder
    └── Interrupted           75   stopped by a signal; resumable

Exit code 1 is left to bugs, 0 to success.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. Empty parts are not printed."""

    what: str
    """The mistake, in one sentence without a full stop."""
    where: str = ""
    """`file:line  field`, as the user typed the file's name."""
    why: str = ""
    """The rule that was broken, or the arithmetic that does not work out."""
    fix: str = ""
    """One line to copy, computed."""

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix)):
            if text:
                lines.append(f"  {label:<5} {text}")
        return "\n".join(map(shown, lines))


def shown(text: str) -> str:
    """Spells out what would steer a terminal or hide in it: line breaks, escapes, marks of direction."""
    return "".join(c if c.isprintable() or c == "\u3000" else c.encode("unicode_escape").decode() for c in text)


class FinetuneError(Exception):
    """One or more problems that the user can mend; the base of every error of ours."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, why, fix),)
        super().__init__(what)

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process raise it as it is."""
        return type(self).of, (self.problems,)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> FinetuneError:
        """Gathers several problems into one error, so that all are told at once."""
        first, *rest = problems
        error = cls(first.what, where=first.where, why=first.why, fix=first.fix)
        error.problems = (first, *rest)
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class RecipeError(FinetuneError):
    """The recipe, or a word on the command line, cannot be followed."""

    exit_code = 2


class DataError(FinetuneError):
    """The data cannot be learnt from as it is."""

    exit_code = 3


class DoesNotFit(FinetuneError):
    """There is not enough memory or disk."""

    exit_code = 4


class OutsideError(FinetuneError):
    """Something outside this package is missing or refused to work."""

    exit_code = 5


class ArtifactError(FinetuneError):
    """A base, an adapter, a checkpoint or a run folder is missing, damaged or the wrong one."""

    exit_code = 6


class TrainingStopped(FinetuneError):
    """Training went wrong in a way that more steps would not mend."""

    exit_code = 7


class ProofFailed(FinetuneError):
    """An artifact was made, compared, and found different from what it claims to be."""

    exit_code = 8


class RunLocked(FinetuneError):
    """Another process works in this run folder."""

    exit_code = 73


class Interrupted(FinetuneError):
    """A signal asked the run to stop; what was done is saved and can be resumed."""

    exit_code = 75
