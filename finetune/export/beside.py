"""`finetune export --adapter` and `--projector`: files that stand beside a GGUF of the model, and need no merge.

The adapter goes with a GGUF of its base, whoever made and quantised that one; the projector with one of the base or of
the merged model, for no training here touches vision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.export import lora, projector
from finetune.export.converter import digest, find
from finetune.export.made import keep, make_room, making_room
from finetune.merge.order import take
from finetune.run import Claim, Entry, Run, atomic, locked, manifest

Say = Callable[[str], None]

PARTS = {"adapter": lora, "projector": projector}
"""Each of these rooms has `names`, `room_bytes`, `make` and `serve`."""


def export_beside(
    run: Run, parts: Sequence[str], out: Path | None, converter: Path | None, cache: Path, say: Say
) -> dict[str, Any]:
    """Makes files that stand beside a GGUF, proves them, and gives the stage's manifest entry.

    Args:
        run: that finished.
        parts: of PARTS.
        out: the folder to write to; without one it is `gguf` in the run.
        converter: a checkout of llama.cpp, instead of the pinned converter.
        cache: where a fetched converter is kept.
        say: takes a line for the user.

    Raises:
        ArtifactError: run, adapter or base is not what it was, or is of a kind that llama.cpp cannot serve so.
        DoesNotFit: the disk has too little room.
        OutsideError: the converter is not there, or failed.
        ProofFailed: a file is not what it should be; it does not get its name.
        RunLocked: another process works in the run.
    """
    began, rooms = time.monotonic(), [PARTS[part] for part in parts]
    with locked(run):
        order = take(run, "bf16")
        needed = sum(room.room_bytes(order) for room in rooms)  # which is where they refuse
        found, folder = find(converter, cache), out or run.path / "gguf"
        files, claims = list[Path](), list[Claim]()
        with atomic.refusal_told(folder, "name another folder by --out"), atomic.full_disk_told(folder):
            make_room(folder, run, needed)
            for room in rooms:
                with making_room(folder, run) as making:
                    made, proven = room.make(order, found, making, say)
                    files += [keep(file, folder / file.name) for file in made]
                for claim in proven:
                    claim["claim"] = f"{made[0].name}: {claim['claim']}"
                claims += proven
        entry = Entry(
            stage="export",
            inputs={name: told for name, told in order.inputs.items() if name != "onto"},
            outputs={run.named(file): atomic.sha256(file) for file in files},
            claims=claims,
            versions={"finetune": __version__, "llama.cpp": digest(found)[:12]},
            seconds=round(time.monotonic() - began, 1),
            finished=manifest.now(),
        )
        manifest.add(run.manifest, entry)
    for room in rooms:
        say(room.serve(run, folder))
    return vars(entry)
