"""The chain of a run: each file that its manifest speaks of, and that each stage took what the one before it made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.provenance import links
from finetune.run import Claim, Run, atomic, claim, manifest, outputs
from finetune.shape import fingerprint


def check_chain(run: Run, base: Path | None, progress: Callable[[str, int, int], None]) -> Iterator[Claim]:
    """Compares plan, base and every file that a stage made with their hashes.

    A folder whose files are all gone was removed, which is no damage: that is told, and holds.

    Args:
        run: to look at.
        base: of it; None where it is not on the disk.
        progress: is told how many bytes were read.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    told = manifest.read_begun(run.manifest)
    begun = told["contract"]
    yield _same("plan.json is the one that the run began with", begun["plan"], atomic.sha256(run.plan))
    if base is None:
        yield claim("the base was not compared", "it is not where the recipe says; --base FOLDER")
    else:
        yield _same(
            f"the base is by its headers and samples the one that was trained on: {base}",
            begun["base"],
            fingerprint(base),
        )
    made = outputs.made_by(told)
    stages: dict[tuple[str, Path], dict[str, str]] = defaultdict(dict)
    for name, (digest, stage) in made.items():
        stages[stage, Path(name).parent][name] = digest
    there = {name: run.path / name for name in made if _is_there(run.path / name)}
    done, whole = 0, sum(file.stat().st_size for file in there.values())
    for (stage, folder), files in stages.items():
        shown = f"{stage}: {folder if folder != Path() else 'the run'}"
        if not files.keys() & there.keys():
            yield claim(f"{shown} was removed", f"{len(files)} files")
            continue
        wrong = []
        for name, digest in files.items():
            if name not in there:
                wrong.append(f"{Path(name).name} is gone")
            elif atomic.sha256(there[name]) != digest:
                wrong.append(f"{Path(name).name} is another")
            done += there[name].stat().st_size if name in there else 0
            progress("hashing", done, whole)
        yield claim(f"{shown}, files as they were proven", "; ".join(wrong) or len(files), holds=not wrong)
    if not told["stages"]:
        yield claim("no stage is finished yet", 0)
    for link in links(told):
        yield claim(link.told, link.missing or link.count, holds=link.holds)


def _is_there(file: Path) -> bool:
    """Tells whether a file is there; one whose name no file can have is not."""
    try:
        return file.is_file()
    except OSError:
        return False


def _same(told: str, wanted: str, found: str) -> Claim:
    return claim(told, found[:16] if wanted == found else f"{found[:16]}, not {wanted[:16]}", holds=wanted == found)
