"""`finetune export`: the merged model as GGUF files, each opened and compared in the same command.

llama.cpp's converter makes one file in bf16 of the merged folder, its quantiser the smaller ones of that. What is told
of a file is read back from it, by llama.cpp's own reader and by transformers', which share no code with the writer.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune import __version__, engine, host
from finetune.errors import ProofFailed
from finetune.export import answers, imatrix
from finetune.export.converter import Converter, digest, find
from finetune.export.imatrix import Importance
from finetune.export.made import gguf_file, keep, make_room, making_room
from finetune.export.modelfile import modelfile, served_as_trained
from finetune.export.quality import Quality, remembered, table, write
from finetune.export.quantising import Quantiser, find_quantiser, missing
from finetune.export.readback import check_fields, same_weights
from finetune.ggufs import CONVERTED
from finetune.merge import merge
from finetune.merge.logits import Distance
from finetune.merge.prompts import Prompts, read_prompts
from finetune.plan import read_plan
from finetune.recipe import load
from finetune.run import Claim, Entry, Run, atomic, claim, locked, manifest, outputs
from finetune.serving import template_as_trained
from finetune.shards import shards

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]

MEMORY_SHARE = 0.8
"""Of the host's free memory that the merged model and the GGUF, both held to compare their weights, may take."""

MOST_KL = {"bf16": 0.05, "f32": 0.05, "f16": 0.05, "q8_0": 0.4}
MOST_KL_OF_FEW_BITS = 3.0
"""Nats from the file in bf16, and of that from the merged model, above which it is not a rounding but a mistake.

Toys of a few layers were seen at 0.036 in q8_0 and 0.31 in q4_k_m; another model is further than 3 away.
"""

LARGEST_SHARE = {"f32": 2.0, "f16": 1.0, "bf16": 1.0, "q8_0": 0.54}
"""Of the merged model's bytes that a file takes; of all others, less than 0.54."""


@dataclass(frozen=True)
class Order:
    """What is made, of what, and where."""

    run: Run
    kinds: tuple[str, ...]
    out: Path
    converter: Converter
    prompts: Prompts
    importance: Importance | None = None
    """By which the quantiser knows what matters."""

    @property
    def merged(self) -> Path:
        return self.run.merged

    def file(self, kind: str) -> Path:
        return gguf_file(self.run, self.out, kind)


def export(
    run: Run,
    kinds: tuple[str, ...],
    out: Path | None,
    converter: Path | None,
    cache: Path,
    say: Say,
    progress: Progress,
    projector: str | None = None,
    importance: bool = False,
) -> dict[str, Any]:
    """Makes GGUF files of a run's merged model, proves each, and gives the stage's manifest entry.

    The run is merged first if it was not; if it was, its files are verified.

    Args:
        run: that finished.
        kinds: of KINDS.
        out: the folder to write to; without one it is `gguf` in the run.
        converter: a checkout of llama.cpp, instead of the pinned converter.
        cache: where a fetched converter is kept.
        say: takes a line for the user.
        progress: is told how far the merge is.
        projector: name of the vision's file that lies in the folder, for the Modelfile.
        importance: whether an importance matrix of the training rows is measured and used.

    Raises:
        ArtifactError: run, adapter or base is not what it was.
        DataError: an importance matrix is asked for, and the rows are not those of the training.
        DoesNotFit: the disk has too little room.
        OutsideError: the converter, the quantiser or a tool is not there, or failed.
        ProofFailed: a file is not the model that it should be; it does not get its name.
        RunLocked: another process works in the run.
    """
    began, tools, quantiser = time.monotonic(), imatrix.find_tools() if importance else None, _quantiser(kinds)
    found = find(converter, cache)
    merge(run, "bf16", None, say, progress)
    with locked(run):
        prompts = read_prompts(load(run.recipe), run.merged)
        by = imatrix.of_training(run, tools, _threads()) if tools else None
        order = Order(run, kinds, out or run.path / "gguf", found, prompts, by)
        with atomic.refusal_told(order.out, "name another folder by --out"), atomic.full_disk_told(order.out):
            todo = replace(order, kinds=_not_made(order, say))
            make_room(order.out, run, _most_bytes(todo))
            with making_room(order.out, run) as making:
                claims, files = _make(todo, making, quantiser, say) if todo.kinds else ([], [])
            beside = _write_beside(order, files, projector, say)
        manifest.add(run.manifest, entry := _entry(todo, claims, beside, began))
    return vars(entry)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _quantiser(kinds: tuple[str, ...]) -> Quantiser | None:
    """Finds what makes the smaller files, which is not needed for those that the converter writes by itself.

    Raises:
        OutsideError: it is needed, and not there.
    """
    quantiser = find_quantiser(_threads())
    if quantiser is None and (beyond := [kind for kind in kinds if kind not in CONVERTED]):
        raise missing(beyond)
    return quantiser


def _not_made(order: Order, say: Say) -> tuple[str, ...]:
    """Lists the kinds whose files do not lie there as an export of this very merge proved them, by the same tools."""
    stages = manifest.read(order.run.manifest)["stages"]
    merged = [i for i, each in enumerate(stages) if order.run.named(order.merged / "config.json") in each["outputs"]]
    exports = [each for each in stages[merged[-1] :] if each["stage"] == "export"]
    versions = _versions(order)
    whole = [kind for kind in order.kinds if _is_whole(order, kind, exports, versions)]
    for kind in whole:
        say(f"{order.file(kind).name}  is there, as it was proven")
    return tuple(kind for kind in order.kinds if kind not in whole)


def _is_whole(order: Order, kind: str, exports: list[dict[str, Any]], versions: dict[str, str]) -> bool:
    """Tells whether a kind's file is the one that the newest of these exports to name it proved, as this one would."""
    file = order.file(kind)
    naming = [entry for entry in exports if order.run.named(file) in entry["outputs"]]
    if not naming or not file.is_file():
        return False
    entry = naming[-1]
    compared = any(claim["claim"].startswith(f"{file.name}: mean KL") for claim in entry["claims"])
    if (entry["inputs"], entry["versions"]) != (_inputs(order), versions) or (engine.is_installed() and not compared):
        return False
    return atomic.sha256(file) == str(entry["outputs"][order.run.named(file)])


def _write_beside(order: Order, files: list[Quality], projector: str | None, say: Say) -> list[Path]:
    """Writes the Modelfile and the table of all kinds in the folder, tells the latter, and gives what it wrote."""
    text = modelfile(order.file(order.kinds[0]).name, served_as_trained(order.run), projector)
    atomic.write_text(order.out / "Modelfile", text)
    all_kinds = remembered(order.out, order.run.name, files, say)
    for line in table(all_kinds):
        say(line)
    if not engine.is_installed():
        say("answers were not compared: that takes pip install llama-cpp-python")
    return [order.out / "Modelfile", *write(order.out, order.run.name, all_kinds)]


def _most_bytes(order: Order) -> int:
    """Counts what is written at the most, the file in bf16 among it, of which the others are made."""
    if not order.kinds:
        return 0
    whole = sum(file.stat().st_size for file in shards(order.merged))
    return round(sum(LARGEST_SHARE.get(kind, 0.54) * whole for kind in {*order.kinds, "bf16"}))


def _make(order: Order, making: Path, quantiser: Quantiser | None, say: Say) -> tuple[list[Claim], list[Quality]]:
    """Writes each file beside its place, proves it and gives it its name."""
    template = template_as_trained(order.run, order.merged)
    (making / "template").write_text(template)
    quantiser = order.importance.quantiser(making) if order.importance else quantiser
    whole, claims, files = making / "bf16.gguf", list[Claim](), list[Quality]()
    needed = {*order.kinds, *(["bf16"] if quantiser is not None else [])}
    for kind in sorted(needed, key=lambda kind: kind != "bf16"):  # of which the quantised ones are made
        began, made = time.monotonic(), making / f"{kind}.gguf"
        if kind in CONVERTED and (kind != "q8_0" or quantiser is None):
            order.converter.run("convert", order.merged, making / "template", order.run.name, kind, made)
        else:
            assert quantiser is not None, "looked for before anything was begun"
            quantiser(whole, made, kind)
        told = order.converter.run("read", made)
        found, away = check_fields(made, told, order.merged, template), _distance(order, kind, making)
        if order.importance and (kind not in CONVERTED or kind == "q8_0"):
            found.append(imatrix.check(told["fields"], order.file(kind)))
        if kind == "bf16" and 2 * made.stat().st_size < MEMORY_SHARE * host.free_bytes():
            found.append(same_weights(made, order.merged))
        if kind in order.kinds:
            file = order.file(kind)
            found += _claims(kind, away) if away else []
            claims += [{**each, "claim": f"{file.name}: {each['claim']}"} for each in found]
            files.append(_quality(file, kind, made.stat().st_size, told, away))
            if kind != "bf16":
                keep(made, file)
            say(f"{file.name}  made and read back, {time.monotonic() - began:.0f} s")
    if "bf16" in order.kinds:
        keep(whole, order.file("bf16"))
    return claims, files


def _distance(order: Order, kind: str, making: Path) -> Distance | None:
    """Compares a file's answers with those of the one in bf16, and that one's with the merged model's.

    Returns:
        None where llama.cpp cannot be asked.

    Raises:
        ProofFailed: they are another model's.
    """
    made = making / f"{kind}.gguf"
    if not engine.is_installed() or not (making / "bf16.gguf").exists():
        return None
    found = answers.logits(made, order.prompts.ids, making / f"{kind}.npy")
    if kind == "bf16":
        away = answers.apart_from_folder(order.merged, read_plan(order.run.plan), order.prompts.ids, found)
    else:
        away = answers.apart(making / "bf16.npy", found)
        found.unlink()
    if not away.mean_kl <= _most_kl(kind):
        why = f"mean KL from {_beside(kind)} is {away.mean_kl:.3g}, more than {_most_kl(kind):g}"
        raise ProofFailed(f"what {kind} answers is another model's", where=str(order.file(kind)), why=why)
    return away


def _claims(kind: str, away: Distance) -> list[Claim]:
    return [
        claim(f"mean KL from {_beside(kind)}, by llama.cpp", float(f"{away.mean_kl:.3g}"), _most_kl(kind)),
        claim("share of likeliest tokens that stay", round(away.agreement, 4)),
    ]


def _most_kl(kind: str) -> float:
    return MOST_KL.get(kind, MOST_KL_OF_FEW_BITS)


def _beside(kind: str) -> str:
    return "the merged model" if kind == "bf16" else "bf16"


def _quality(file: Path, kind: str, num_bytes: int, told: dict[str, Any], away: Distance | None) -> Quality:
    num_weights = sum(math.prod(shape) for _, _, shape in told["tensors"])
    kl, agreement = (away.mean_kl, away.agreement) if away else (None, None)
    return Quality(kind, file.name, num_bytes, num_weights, kl, agreement)


def _entry(order: Order, claims: list[Claim], beside: list[Path], began: float) -> Entry:
    files = [*map(order.file, order.kinds), *beside]
    return Entry(
        stage="export",
        inputs=_inputs(order),
        outputs={order.run.named(file): atomic.sha256(file) for file in files},
        claims=claims,
        versions=_versions(order),
        seconds=round(time.monotonic() - began, 1),
        finished=manifest.now(),
    )


def _versions(order: Order) -> dict[str, str]:
    return {
        "finetune": __version__,
        "transformers": version("transformers"),
        "llama.cpp": digest(order.converter)[:12],
    }


def _inputs(order: Order) -> dict[str, str]:
    """Names what goes in; the merged shards by the hashes that stand in the manifest, compared before."""
    made = outputs.made_by(manifest.read(order.run.manifest))
    merged = {order.run.named(shard) for shard in shards(order.merged)}
    told = {"merged": str(order.merged), "prompts": order.prompts.told}
    told |= {name: digest for name, (digest, _) in made.items() if name in merged}
    return told | ({"importance": order.importance.told} if order.importance else {})
