"""`finetune export --vllm`: the adapter in the layout that vLLM serves beside the published base, no merge needed."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.errors import ArtifactError
from finetune.experts.layouts import write_for_vllm
from finetune.merge.changes import Adapter
from finetune.merge.order import take
from finetune.plan import Plan
from finetune.run import Entry, Run, atomic, claim, locked, manifest, outputs

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""That --max-lora-rank may be. Source, read and not run: vLLM 0.26.0, vllm/config/lora.py, MaxLoRARanks."""


def export_for_vllm(run: Run, out: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes the folder, reads it back, and gives the stage's manifest entry; one that was written before is verified.

    Args:
        run: that finished.
        out: the folder to make; without one it is `vllm` in the run.
        say: takes a line for the user.

    Raises:
        ArtifactError: run, adapter or base is not what it was, there is no adapter or one that vLLM refuses, or there
            is something else in the place of the folder.
        DoesNotFit: the disk is full.
        ProofFailed: what was written is not the adapter.
        RunLocked: another process works in the run.
    """
    began, folder = time.monotonic(), Path(os.path.normpath(out or run.path / "vllm"))
    with locked(run):
        order = take(run, "bf16")
        outputs.need_adapter(
            run, order.plan.method, f"{outputs.command('merge', run)}   # vLLM serves the merged model"
        )
        command = serve(run, order.plan, order.recipe.base, folder)
        taken = {name: told for name, told in order.inputs.items() if name != "onto"}
        told = outputs.last(manifest.read(run.manifest), "vllm", **taken)
        if told is not None and folder.exists() and _names(run, folder) == told["outputs"].keys():
            outputs.check(run, told["outputs"], f"mv {shlex.quote(str(folder))} {shlex.quote(f'{folder}-before')}")
            say("the folder is there, and its files are those that were proven")
            entry = told
        else:
            write_for_vllm(run.adapter, folder)
            count = len(Adapter(run.adapter).stored)
            made = Entry(
                stage="vllm",
                inputs=taken,
                outputs={run.named(file): atomic.sha256(file) for file in sorted(folder.iterdir())},
                claims=[claim("tensors of the adapter that read back from vLLM's layout bit for bit", count, count)],
                versions={"finetune": __version__, "safetensors": version("safetensors")},
                seconds=round(time.monotonic() - began, 1),
                finished=manifest.now(),
            )
            manifest.add(run.manifest, made)
            entry = vars(made)
    say(command)
    return dict(entry)


def serve(run: Run, plan: Plan, base: str, folder: Path) -> str:
    """Gives the command by which vLLM serves it, not run here.

    Raises:
        ArtifactError: vLLM has no room for such a rank.
    """
    rank = max(plan.rank, plan.expert_rank)
    room = next((each for each in RANKS if each >= rank), None)
    if room is None:
        why = f"this one has rank {rank}, and --max-lora-rank is at most {RANKS[-1]}"
        fix = f"finetune merge {shlex.quote(str(run.path))}   # vLLM serves the merged model"
        raise ArtifactError("vLLM has no room for this adapter", where=str(run.adapter), why=why, fix=fix)
    words = ["vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(room)]
    words += ["--enable-mixed-moe-lora-format"] if plan.expert_rank else []
    return shlex.join([*words, "--lora-modules", f"{run.name}={folder}"])


def _names(run: Run, folder: Path) -> set[str]:
    return {run.named(file) for file in folder.iterdir()} if folder.is_dir() else set()
