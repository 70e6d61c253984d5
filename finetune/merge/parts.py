"""What goes into a merge: what a run learnt, which was proven, and adapters of plain PEFT's; all are of one base."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError
from finetune.merge.changes import Adapter
from finetune.merge.combining import SEED
from finetune.merge.mix import Mix, name_of
from finetune.model.adapter import CONFIG, WEIGHTS
from finetune.plan import Plan, read_plan
from finetune.run import Run, anew, atomic, manifest, open_run, outputs, resume

SAME = {"base": "base", "tokenizer": "base's tokenizer", "template": "base's chat template"}
"""What runs must have in common: key of the contract -> what it is."""


def check_trained(run: Run, plan: Plan, told: dict[str, Any]) -> dict[str, str]:
    """Gives the hashes of the files of what a run learnt, which are those that training proved.

    Raises:
        ArtifactError: there is no adapter, or of method `full` no weights, or they are others.
    """
    entry = outputs.last(told, "train")
    if entry is None:
        what = f"the run has no {'weights' if plan.method == 'full' else 'adapter'}"
        raise ArtifactError(what, where=str(run.path), why="training did not finish", fix=resume(run.path))
    outputs.check(run, entry["outputs"], f"put it back, or train anew: {anew(run)}")
    return dict(entry["outputs"])


def described(run: Run, mix: Mix) -> dict[str, Any]:
    """Writes down for the manifest what is combined: every adapter with its weight and hashes, and how.

    Raises:
        ArtifactError: there is no adapter in one of the folders.
    """
    if mix.alone:
        return {}
    parts = [(run.path, mix.weight), *mix.others]
    told = [{"adapter": name_of(path), "weight": weight, **_hashes(_folder(path))} for path, weight in parts]
    thinned = {} if mix.density is None else {"density": mix.density}
    seed = {"seed": SEED} if mix.method == "dare" else {}
    return {"adapters": told, "method": mix.method, **thinned, **seed}


def open_parts(run: Run, told: dict[str, Any], mix: Mix) -> list[tuple[Adapter, float]]:
    """Opens the run's adapter and the others, each with its weight.

    Args:
        run: whose adapter was checked.
        told: its manifest.
        mix: that is asked for.

    Raises:
        ArtifactError: there is no adapter, it is not the one that was proven, or it is of another base.
    """
    own = Adapter(run.adapter)
    found = [(own, mix.weight)]
    for path, weight in mix.others:
        folder = _folder(path)
        if _is_run(path):
            _check_run(run, told, open_run(path))
            found.append((Adapter(folder), weight))
        else:
            other = Adapter(folder)
            _check_bare(run, own, other)
            found.append((other, weight))
    return found


def _is_run(path: Path) -> bool:
    return os.path.isfile(Run(path).manifest)


def _folder(path: Path) -> Path:
    """Gives the folder of the two files.

    Raises:
        ArtifactError: it is neither a run nor an adapter, or a run of method `full`.
    """
    if _is_run(path):
        run = open_run(path)
        fix = f"{outputs.command('merge', run)}   # alone, with nothing else"
        outputs.need_adapter(run, read_plan(run.plan).method, fix)
        return run.adapter
    absent = [name for name in (CONFIG, WEIGHTS) if not os.path.isfile(path / name)]
    if not absent:
        return path
    raise ArtifactError(
        "this is neither a run nor an adapter" if os.path.isdir(path) else "there is no such run or adapter",
        where=str(path),
        why=f"manifest.json, and {' and '.join(absent)}, missing" if os.path.isdir(path) else "",
        fix="give the folder of a finished run, or one with adapter_config.json and adapter_model.safetensors",
    )


def _hashes(folder: Path) -> dict[str, str]:
    """Gives the hashes of an adapter's files; what is missing is told by whoever opens it."""
    return {name: atomic.sha256(folder / name) for name in (CONFIG, WEIGHTS) if (folder / name).is_file()}


def _check_run(run: Run, told: dict[str, Any], other: Run) -> None:
    """Makes sure that another run finished, and was trained on the same base.

    Raises:
        ArtifactError: naming what differs.
    """
    told_other, plan, plan_other = manifest.read_begun(other.manifest), read_plan(run.plan), read_plan(other.plan)
    check_trained(other, plan_other, told_other)
    differ = [what for key, what in SAME.items() if told_other["contract"][key] != told["contract"][key]]
    if differ:
        its, own = _base(plan_other.base, plan_other.revision), _base(plan.base, plan.revision)
        raise _not_of_one_base(run, other.path, f"another {differ[0]}: it was trained on {its}, {run.name} on {own}")


def _check_bare(run: Run, own: Adapter, other: Adapter) -> None:
    """Compares what the config of an adapter without a run says of its base; shapes are compared when it is placed.

    Of a base in a local folder our adapters say the folder's name, PEFT's its path. No revision is any.

    Raises:
        ArtifactError: it names another base or revision.
    """
    (base, revision), (base_other, revision_other) = (
        (str(adapter.config.get("base_model_name_or_path")), adapter.config.get("revision")) for adapter in (own, other)
    )
    if base not in (base_other, os.path.basename(base_other)) or revision_other not in (None, revision):
        its, wanted = _base(base_other, revision_other), _base(base, revision)
        raise _not_of_one_base(run, other.folder, f"its {CONFIG} says {its}, that of {run.name} {wanted}")


def _base(name: str, revision: str | None) -> str:
    return f"{name} at {revision}" if revision else name


def _not_of_one_base(run: Run, other: Path, why: str) -> ArtifactError:
    fix = f"finetune merge {shlex.quote(str(run.path))}   # alone, or with adapters of its base"
    return ArtifactError(f"{name_of(other)} and {run.name} are not of one base", where=str(other), why=why, fix=fix)
