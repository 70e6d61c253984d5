"""`finetune export`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import typer

from finetune import stopping
from finetune.cli import handing
from finetune.cli.merging import Bar
from finetune.cli.quiet import quiet_libraries
from finetune.errors import RecipeError


def export(
    run: Path = typer.Argument(help="The run folder."),
    gguf: str = typer.Option("q4_k_m,q8_0", "--gguf", metavar="KINDS", help="bf16, q8_0, q4_k_m, …, with commas."),
    out: Path | None = typer.Option(None, "--out", metavar="FOLDER", help="Where to write. Default: RUN/gguf."),
    converter: Path | None = typer.Option(
        None, "--converter", metavar="FOLDER", help="A checkout of llama.cpp, instead of the pinned converter."
    ),
    ollama: str | None = handing.OLLAMA,
    lmstudio: bool = handing.LMSTUDIO,
    publisher: str | None = handing.PUBLISHER,
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print what was proven as JSON instead of the folder."),
) -> None:
    """Write a run's model as GGUF files and a Modelfile, and prove them. It is merged first, if it was not."""
    from finetune.run import open_run

    with stopping.heard() as stop:
        opened = open_run(run)
        words = ["finetune", "export", str(run), "--gguf", gguf, *(["--out", str(out)] if out else [])]
        words += handing.words(ollama, lmstudio, publisher)
        stop.idle = shlex.join(words)  # at no instant is anything lost by ending
        quiet_libraries()
        from finetune.export import KINDS
        from finetune.export import export as export_run
        from finetune.export.converter import kept

        kinds = _kinds(gguf, KINDS)
        hand_on = handing.prepare(ollama, lmstudio, publisher)
        bar = Bar(quiet)
        entry = export_run(opened, kinds, out, converter, kept(), bar.say, bar.show)
        folder = out or opened.path / "gguf"
        handed = hand_on(opened, folder, kinds, bar)
    print(json.dumps({"folder": str(folder), **entry, **handed}) if as_json else folder)


def _kinds(told: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Reads the kinds of files that are asked for.

    Raises:
        RecipeError: one is unknown, or there is none.
    """
    kinds = tuple(dict.fromkeys(word.strip().lower() for word in told.split(",") if word.strip()))
    for kind in kinds or ("",):
        if kind not in known:
            why = f"known are {', '.join(known)}"
            what = f"there is no kind {kind!a:.20}" if kind else "there is no kind of file"
            raise RecipeError(what, where=f"--gguf {told!a:.40}", why=why, fix="--gguf q4_k_m,q8_0")
    return kinds
