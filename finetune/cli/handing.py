"""`finetune export --ollama` and `--lmstudio`: whom the files are handed to, once they are made and proven."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finetune.cli.bar import Bar
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.run import Run

OLLAMA = typer.Option(
    None, "--ollama", metavar="NAME", help="Make a model of that name in Ollama, of the kind that is named first."
)
LMSTUDIO = typer.Option(False, "--lmstudio", help="Lay the files and a preset into LM Studio's folders.")
PUBLISHER = typer.Option(
    None, "--publisher", metavar="NAME", help="Under whom LM Studio lists them. Default: finetune."
)

HandOn = Callable[["Run", Path, tuple[str, ...], Bar], dict[str, Any]]


def words(ollama: str | None, lmstudio: bool, publisher: str | None) -> list[str]:
    """Gives the options as they were typed."""
    told = ["--ollama", ollama] if ollama is not None else []
    told += ["--lmstudio"] if lmstudio else []
    return told + (["--publisher", publisher] if publisher is not None else [])


def prepare(ollama: str | None, lmstudio: bool, publisher: str | None) -> HandOn:
    """Checks what can be checked before anything is made; what it gives hands the files on.

    Raises:
        ArtifactError: LM Studio's settings are damaged.
        OutsideError: there is no LM Studio.
        RecipeError: Ollama or LM Studio would not take the name, or OLLAMA_HOST names no server.
    """
    from finetune.export import gguf_file
    from finetune.export import lmstudio as studio
    from finetune.export import ollama as server

    if ollama is not None:
        server.check_name(ollama)
        server.find_server()
    if publisher is not None and not lmstudio:
        why = "only LM Studio lists models by publisher"
        raise RecipeError("a publisher of nothing", where=f"--publisher {publisher!a:.60}", why=why, fix="--lmstudio")
    studio.check_publisher(publisher := publisher or studio.PUBLISHER)
    home = studio.find_home() if lmstudio else None

    def hand_on(run: Run, folder: Path, kinds: tuple[str, ...], bar: Bar) -> dict[str, Any]:
        files = {kind: gguf_file(run, folder, kind) for kind in kinds}
        handed: dict[str, Any] = {}
        if home is not None:
            handed["lmstudio"] = studio.lay(run, list(files.values()), home, publisher)
            bar.say(f"LM Studio lists {publisher}/{run.name}; its preset {run.name} has the sampling and system prompt")
        if ollama is not None:
            first = kinds[0]
            handed["ollama"] = server.create(run, files[first], first, ollama, bar.say, bar.show, _warn)
            if handed["ollama"]:
                bar.say(f"ollama run {ollama}")
        elif home is None:
            bar.say(f"{server.by_hand(server.proposed(run.name), folder)}   # serves {kinds[0]}")
        return handed

    return hand_on


def _warn(line: str) -> None:
    """Tells on stderr what --quiet does not silence: that what was asked for was not done."""
    print(line, file=sys.stderr)
