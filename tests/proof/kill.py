"""Kills and stops real trainings at random instants, and compares what becomes of them with the uninterrupted run.

    scripts/prove kill [--kills 20] [--terms 10] [--aimed 12] [--commands 12] [--seed 0]

Instants are uniform over the life of a process: arguments, data, loading, steps, scoring, saving, the last writing.
A run is struck again and again until a process of it outlives its instant; killed before its folder exists, the
command is given again. `--aimed` kills strike inside a phase that uniform ones rarely meet, `--commands` strike
`python -m finetune` as a whole, imports included; half of those strike during the imports.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trial import zygote
from trial.comparison import differences
from trial.small_run import words, write_recipe

from finetune.demo_base import make_pico_base
from finetune.run import list_runs

AIMED = ("save", "final", "eval", "save", "data", "final", "load", "save", "eval", "step", "save", "final")
"""Phases, some of which are too short to be met by chance."""

AIMED_SECONDS = 0.01
"""After the phase began; a save takes about twice as long."""

IMPORT_SECONDS = 3.0
"""A process is still importing by then, on any machine we have seen."""


Strike = Callable[[list[str], Path], zygote.End]
"""Runs a command, whose output goes to the file, and strikes it."""


@dataclass
class Tally:
    """What was seen."""

    phases: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(signal, phase) -> how many."""
    runs: int = 0
    identical: int = 0
    wrong: list[str] = field(default_factory=list)
    term_seconds: list[float] = field(default_factory=list)
    """From SIGTERM to the end of the process."""

    def struck(self, what: str) -> int:
        """How many signals of a kind were sent."""
        return sum(number for (kind, _), number in self.phases.items() if kind == what)


class Arena:
    """Where runs are begun, struck, resumed and compared."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.random, self.tally = work, random.Random(seed), Tally()
        base = make_pico_base(work / "pico")
        self.recipe = write_recipe(work, base)
        self.reference, _ = self._uninterrupted("reference")
        second, self.lifetime = self._uninterrupted("second")
        if told := differences(second, self.reference):
            sys.exit(f"two uninterrupted runs differ already: {told}")

    def _uninterrupted(self, name: str) -> tuple[Path, float]:
        end = zygote.run(words(self.recipe, self.work / name), self.work / "log")
        if end.code:
            sys.exit(f"the uninterrupted run failed:\n{end.output}")
        return list_runs(self.work / name)[0].path, end.seconds

    def strike(self, kind: str, budget: int, strike_one: Strike) -> None:
        """Begins runs and strikes them until a number of signals was sent; each run is brought to its end."""
        left = budget
        while left > 0:
            runs = self.work / f"run-{self.tally.runs}"
            self.tally.runs += 1
            end = None
            while end is None or end.code != 0:
                begun = list_runs(runs)
                given = ["train", "--resume", str(begun[0].path)] if begun else words(self.recipe, runs)
                log = self.work / f"{runs.name}.log"
                end = strike_one(given, log) if left > 0 else zygote.run(given, log)
                left -= end.struck
                if self._judge(kind, runs, end):
                    break
            else:
                self.compare(runs)

    def _judge(self, kind: str, runs: Path, end: zygote.End) -> bool:
        """Notes one process's end; says whether its run is beyond hope."""
        if not end.struck:
            if end.code:
                self.tally.wrong.append(f"{runs.name} failed with {end.code}:\n{end.output}")
            return end.code != 0
        self.tally.phases[kind, end.phase] += 1
        row = f"{self.tally.struck(kind):>4}  {kind:<13} {runs.name:<7} {end.phase:<7} exit {end.code:>4}"
        print(f"{row}  after {end.seconds:6.3f} s", flush=True)
        if "term" not in kind:
            return False
        self.tally.term_seconds.append(end.seconds)
        resumable = end.code == 75 and ("--resume" in end.output or "give the command again" in end.output)
        unheard = end.code == -signal.SIGTERM and end.phase in ("start", "exit")
        finished = end.code == 0 and "claims hold" in end.output  # the signal came when no step was left to stop before
        if not (resumable or unheard or finished):
            self.tally.wrong.append(f"{runs.name}: SIGTERM during {end.phase} gave {end.code}:\n{end.output}")
        return False

    def compare(self, runs: Path) -> None:
        """Compares the one run in a folder with the uninterrupted one."""
        found = list_runs(runs)
        told = differences(found[0].path, self.reference) if len(found) == 1 else [f"{len(found)} runs"]
        self.tally.identical += not told
        self.tally.wrong += [f"{runs.name} differs: {told}"] if told else []


def main() -> int:
    """Strikes, compares and prints; 0 if every run finished identical."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 20), ("terms", 10), ("aimed", 12), ("commands", 12), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(Path(folder), wanted.seed)
        print(f"an uninterrupted process lives {arena.lifetime:.2f} s after its imports", flush=True)

        def by_chance(number: signal.Signals) -> Strike:
            return lambda given, log: zygote.run(given, log, number, arena.random.uniform(0, arena.lifetime))

        arena.strike("kill", wanted.kills, by_chance(signal.SIGKILL))
        arena.strike("term", wanted.terms, by_chance(signal.SIGTERM))
        aims = iter(AIMED * wanted.aimed)
        arena.strike("aimed", wanted.aimed, lambda given, log: _aim(arena, next(aims), given, log))
        _strike_commands(arena, wanted.commands)
    return _print(arena, time.monotonic() - began)


def _aim(arena: Arena, phase: str, given: list[str], log: Path) -> zygote.End:
    return zygote.run(given, log, signal.SIGKILL, arena.random.uniform(0, AIMED_SECONDS), phase)


def _strike_commands(arena: Arena, number: int) -> None:
    """Strikes whole commands: two kills for each SIGTERM; every other instant lies within the imports."""
    if not number:
        return
    whole = zygote.run_command(words(arena.recipe, arena.work / "command"), arena.work / "log")
    arena.tally.runs += 1
    arena.compare(arena.work / "command")
    print(f"an uninterrupted command lives {whole.seconds:.2f} s", flush=True)

    def strike_with(number: signal.Signals) -> Strike:
        def strike(given: list[str], log: Path) -> zygote.End:
            sent = arena.tally.struck("command kill") + arena.tally.struck("command term")
            latest = IMPORT_SECONDS if sent % 2 else whole.seconds
            return zygote.run_command(given, log, number, arena.random.uniform(0, latest))

        return strike

    arena.strike("command kill", number - number // 3, strike_with(signal.SIGKILL))
    arena.strike("command term", number // 3, strike_with(signal.SIGTERM))


def _print(arena: Arena, seconds: float) -> int:
    tally = arena.tally
    print(f"\n{'':<14}" + "".join(f"{phase:>7}" for phase in zygote.PHASES) + f"{'all':>7}")
    for kind in dict.fromkeys(kind for kind, _ in tally.phases):
        counts = [tally.phases[kind, phase] for phase in zygote.PHASES]
        print(f"{kind:<14}" + "".join(f"{count:>7}" for count in [*counts, sum(counts)]))
    print(f"\nruns finished and bit-identical to the uninterrupted one: {tally.identical} of {tally.runs}")
    print(f"longest time from SIGTERM to exit: {max(tally.term_seconds, default=0.0):.2f} s")
    print(f"in all: {seconds:.0f} s")
    for line in tally.wrong:
        print(f"WRONG {line}", file=sys.stderr)
    return int(bool(tally.wrong) or tally.identical != tally.runs)


if __name__ == "__main__":
    sys.exit(main())
