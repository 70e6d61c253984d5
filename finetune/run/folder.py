"""A run is a folder. Its file names are fixed here and nowhere else."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.errors import ArtifactError
from finetune.run.manifest import head

NUMBERED = re.compile(r"(.+)-(\d{4,})")
"""`legal-0001`: the recipe's name and the run's number."""


@dataclass(frozen=True)
class Run:
    """Where everything about one run lies; paths, no behaviour."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name, such as `legal-0001`."""
        return self.path.name

    @property
    def recipe(self) -> Path:
        """The wishes, defaults written out."""
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        """The consequences, as decided for the hardware the run began on."""
        return self.path / "plan.json"

    @property
    def manifest(self) -> Path:
        """The chain of proofs: one entry for each stage that finished."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """One line of JSON for each logged step."""
        return self.path / "metrics.jsonl"

    @property
    def adapter(self) -> Path:
        """What LoRA and QLoRA learnt."""
        return self.path / "adapter"

    @property
    def weights(self) -> Path:
        """What method `full` learnt: every weight of the text model."""
        return self.path / "weights"

    @property
    def merged(self) -> Path:
        """The base with what was learnt in it, as it is published: a whole model."""
        return self.path / "merged"

    @property
    def checkpoints(self) -> Path:
        """From where an interrupted training goes on."""
        return self.path / "checkpoints"

    @property
    def plot(self) -> Path:
        """The curve of the loss."""
        return self.path / "loss.png"

    @property
    def router(self) -> Path:
        """How the routers of a mixture of experts share tokens out, before and after."""
        return self.path / "router.json"

    @property
    def router_plot(self) -> Path:
        """The same, drawn."""
        return self.path / "router.png"

    @property
    def router_base(self) -> Path:
        """What the base's routers chose on the rows of that report."""
        return self.path / "router_base.safetensors"

    @property
    def ledger(self) -> Path:
        """What each step from base to GGUF keeps of the tuning."""
        return self.path / "ledger.json"

    @property
    def ledger_plot(self) -> Path:
        """The same, drawn."""
        return self.path / "ledger.png"

    @property
    def evaluation(self) -> Path:
        """Scores of base, tuned model and GGUF files, and how surely they differ."""
        return self.path / "eval" / "evaluation.json"

    @property
    def evaluated_items(self) -> Path:
        """What each side said and lost, one line of JSON for each item."""
        return self.path / "eval" / "items.jsonl"

    @property
    def report(self) -> Path:
        """All of it as one page."""
        return self.path / "report.html"

    def named(self, file: Path) -> str:
        """Names a file for the manifest: within the run as it lies there, elsewhere in full."""
        file, folder = file.absolute(), self.path.absolute()
        return str(file.relative_to(folder) if file.is_relative_to(folder) else file)

    @property
    def lock(self) -> Path:
        """Held by the one process that works in the folder."""
        return self.path / ".lock"


def resume(path: Path) -> str:
    """Gives the command that goes on with the run in a folder."""
    return f"finetune train --resume {shlex.quote(str(path))}"


def anew(run: Run) -> str:
    """Gives the command that trains a run's recipe again, as another run."""
    return f"finetune train {shlex.quote(str(run.recipe))}"


def create(runs: Path, name: str, recipe_yaml: str, plan_json: str, manifest: dict[str, Any]) -> Run:
    """Makes the next run of that name, whole or not at all.

    The folder is built under a hidden name and renamed; who loses a race for a number takes the next one.

    Args:
        runs: the folder of runs; made if it is missing.
        name: the recipe's name; the run becomes `<name>-0001` or the number after the highest in use.
        recipe_yaml: text of recipe.yaml.
        plan_json: text of plan.json.
        manifest: what it tells at its head, beside its format, the run's name and the time.

    Raises:
        ArtifactError: the folder of runs cannot be written.
        DoesNotFit: the disk or the quota is full; nothing is left behind.
    """
    assert re.fullmatch(r"[^/.][^/]*", name), f"not a folder name: {name!r}"
    staging = Run(runs / f".staging-{name}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with atomic.refusal_told(runs, "--runs ANOTHER-FOLDER"), atomic.full_disk_told(staging.path):
            staging.path.mkdir(parents=True)
            atomic.fsync(runs.parent)
        atomic.write_text(staging.recipe, recipe_yaml)
        atomic.write_text(staging.plan, plan_json)
        while True:
            run = Run(runs / f"{name}-{_highest_number(runs, name) + 1:04d}")
            atomic.write_json(staging.manifest, head(run.name, manifest))
            try:
                atomic.publish(staging.path, run.path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return run
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)  # it has moved away if all went well


def open_run(path: Path) -> Run:
    """Takes an existing folder as a run; behind a link, the folder itself, from where its recipe names base and rows.

    Raises:
        ArtifactError: there is no run at that path; it names the nearest ones. Or the folder around it cannot be read.
    """
    real = os.path.realpath(path)
    run = Run(path if real == os.path.abspath(path) else Path(real))
    if _is_run(run):
        return run
    absent = [part.name for part in _parts(run) if not os.path.isfile(part)]
    near = _nearest(path)
    raise ArtifactError(
        "this folder is not a run" if os.path.isdir(path) else "there is no such run",
        where=str(path),
        why=f"{', '.join(absent)} missing" if os.path.isdir(path) else "",
        fix=" or ".join(str(candidate) for candidate in near) or "finetune train RECIPE.yaml   # starts one",
    )


def list_runs(runs: Path) -> list[Run]:
    """All runs in a folder, by name and number; what is half made or something else is passed over.

    Raises:
        ArtifactError: the folder cannot be read.
    """
    if not os.path.isdir(runs):
        return []
    try:
        found = [Run(runs / name) for name in os.listdir(runs) if not name.startswith(".")]
    except OSError as error:
        fix = f"ls -ld {runs}   tells who may read it"
        raise ArtifactError("this folder cannot be read", where=str(runs), why=str(error.strerror), fix=fix) from error
    return sorted((run for run in found if _is_run(run)), key=_name_and_number)


def _parts(run: Run) -> tuple[Path, Path, Path]:
    """The files that every run has from its first moment on."""
    return run.recipe, run.plan, run.manifest


def _is_run(run: Run) -> bool:
    """Never raises: `os.path.isfile` takes what it may not see, or a name too long, for absent."""
    return all(os.path.isfile(part) for part in _parts(run))


def _name_and_number(run: Run) -> tuple[str, int]:
    match = NUMBERED.fullmatch(run.name)
    return (match[1], int(match[2])) if match else (run.name, 0)


def _highest_number(runs: Path, name: str) -> int:
    """The highest number that anything in the folder bears, run or not."""
    matches = (NUMBERED.fullmatch(entry) for entry in os.listdir(runs))
    return max((int(match[2]) for match in matches if match and match[1] == name), default=0)


def _nearest(path: Path) -> list[Path]:
    """At most three runs that may have been meant: around the path, beside it, or in `runs` beside it."""
    around = [parent for parent in path.parents if _is_run(Run(parent))]
    runs = list_runs(path.parent) + list_runs(path.parent / "runs")
    beside = {run.name: run.path for run in runs}
    return (around + [beside[name] for name in difflib.get_close_matches(path.name, beside, cutoff=0.0)])[:3]
