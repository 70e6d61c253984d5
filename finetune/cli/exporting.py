"""`finetune export`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finetune import stopping
from finetune.cli import handing
from finetune.cli.bar import Bar
from finetune.cli.quiet import quiet_libraries
from finetune.errors import RecipeError
from finetune.ggufs import DEFAULT, KINDS

if TYPE_CHECKING:
    from finetune.run import Run


GGUF = typer.Option(
    None,
    "--gguf",
    metavar="KINDS",
    help="bf16, q8_0, q4_k_m, …, with commas. Default: q4_k_m,q8_0, or none beside --adapter or --projector.",
)
ADAPTER = typer.Option(False, "--adapter", help="The adapter as a GGUF LoRA, for any GGUF of its base.")
PROJECTOR = typer.Option(False, "--projector", help="The base's vision as a GGUF of its own (mmproj).")
IMATRIX = typer.Option(False, "--imatrix", help="Quantise by what the training rows use; wants llama.cpp's tools.")
VLLM = typer.Option(False, "--vllm", help="The adapter as vLLM serves it, and nothing else.")
OUT = typer.Option(None, "--out", metavar="FOLDER", help="Where to write. Default: RUN/gguf, or RUN/vllm.")
CONVERTER = typer.Option(
    None, "--converter", metavar="FOLDER", help="A checkout of llama.cpp, instead of the pinned converter."
)


def export(
    run: Path = typer.Argument(help="The run folder."),
    gguf: str | None = GGUF,
    adapter: bool = ADAPTER,
    projector: bool = PROJECTOR,
    imatrix: bool = IMATRIX,
    vllm: bool = VLLM,
    out: str | None = OUT,
    converter: Path | None = CONVERTER,
    ollama: str | None = handing.OLLAMA,
    lmstudio: bool = handing.LMSTUDIO,
    publisher: str | None = handing.PUBLISHER,
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print what was proven as JSON instead of the folder."),
) -> None:
    """Write a run's model as GGUF files and a Modelfile, or its adapter, for those who serve it, and prove them."""
    from finetune.run import open_run

    with stopping.heard() as stop:
        opened, folder = open_run(run), _folder(out)
        if vllm:
            others = {"--gguf": gguf, "--adapter": adapter, "--projector": projector, "--ollama": ollama}
            _check_alone({**others, "--lmstudio": lmstudio, "--publisher": publisher, "--converter": converter})
            _for_vllm(opened, folder, stop, Bar(quiet), as_json)
            return
        parts = [part for part, wanted in (("adapter", adapter), ("projector", projector)) if wanted]
        words = ["finetune", "export", str(run), *(["--gguf", gguf] if gguf is not None else [])]
        words += [*(f"--{part}" for part in parts), *(["--out", out] if out else [])] + ["--imatrix"] * imatrix
        words += handing.words(ollama, lmstudio, publisher)
        stop.idle = shlex.join(words)  # at no instant is anything lost by ending
        model_wanted = gguf is not None or ollama is not None or lmstudio or not parts
        kinds = () if not model_wanted else DEFAULT if gguf is None else _kinds(gguf)
        quiet_libraries()
        from finetune.export import check_place, export_beside, names, projector_name
        from finetune.export import export as export_run
        from finetune.export.converter import kept

        hand_on = handing.prepare(ollama, lmstudio, publisher)
        folder, handed = folder or opened.path / "gguf", {}
        check_place(opened, "export", folder, names(opened, kinds, parts))
        bar = Bar(quiet)
        entries = [export_beside(opened, parts, folder, converter, kept(), bar.say)] if parts else []
        if kinds:
            vision = name if (folder / (name := projector_name(opened))).is_file() else None
            entries.append(export_run(opened, kinds, folder, converter, kept(), bar.say, bar.show, vision, imatrix))
            handed = hand_on(opened, folder, kinds, bar)
    print(json.dumps({"folder": str(folder), **_together(entries), **handed}) if as_json else folder)


def _check_alone(others: dict[str, Any]) -> None:
    """Makes sure that nothing else is asked for beside --vllm, whose folder is another.

    Raises:
        RecipeError: naming it.
    """
    if given := [word for word, told in others.items() if told]:
        why = "its folder is another than that of GGUF files"
        raise RecipeError(
            "--vllm goes alone", where=f"--vllm {' '.join(given)}", why=why, fix="give --vllm in a command of its own"
        )


def _folder(told: str | None) -> Path | None:
    """Reads where to write.

    Raises:
        RecipeError: it is said, and empty.
    """
    if told == "":
        raise RecipeError("no folder has an empty name", where="--out ''", fix="--out FOLDER   # or leave it out")
    return None if told is None else Path(told)


def _for_vllm(run: Run, out: Path | None, stop: stopping.Stop, bar: Bar, as_json: bool) -> None:
    stop.idle = shlex.join(["finetune", "export", str(run.path), "--vllm", *(["--out", str(out)] if out else [])])
    quiet_libraries()
    from finetune.export import check_place, export_for_vllm

    folder = out or run.path / "vllm"
    check_place(run, "vllm", folder)
    entry = export_for_vllm(run, folder, bar.say)
    print(json.dumps({"folder": str(folder), **entry}) if as_json else folder)


def _together(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Gives what one or two stages proved as if it were one."""
    whole = dict(entries[-1])
    for key in ("inputs", "outputs"):
        whole[key] = {name: value for entry in entries for name, value in entry[key].items()}
    whole["claims"] = [claim for entry in entries for claim in entry["claims"]]
    whole["seconds"] = sum(entry["seconds"] for entry in entries)
    return whole


def _kinds(told: str) -> tuple[str, ...]:
    """Reads the kinds of files that are asked for.

    Raises:
        RecipeError: one is unknown, or there is none.
    """
    kinds = tuple(dict.fromkeys(word.strip().lower() for word in told.split(",") if word.strip()))
    for kind in kinds or ("",):
        if kind not in KINDS:
            why = f"known are {', '.join(KINDS)}"
            what = f"there is no kind {kind!a:.20}" if kind else "there is no kind of file"
            raise RecipeError(what, where=f"--gguf {told!a:.40}", why=why, fix="--gguf q4_k_m,q8_0")
    return kinds
