"""`finetune chat`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import typer

from finetune.chat import Voices, converse, once
from finetune.cli.quiet import quiet_libraries
from finetune.cli.training import CACHE
from finetune.errors import RecipeError


def chat(
    run: Path = typer.Argument(metavar="RUN|FILE.gguf", help="The run folder, or a GGUF file that was made of one."),
    prompt: str | None = typer.Option(None, "--prompt", help="Ask once; without it, talk."),
    base: bool = typer.Option(False, "--base", help="Let the base answer beside it."),
    system: str | None = typer.Option(None, "--system", help="Of a GGUF file. Default: that of the run it lies in."),
    temperature: float | None = typer.Option(None, "--temperature", min=0, help="0 takes the likeliest token."),
    max_tokens: int = typer.Option(1024, "--max-tokens", min=1, max=1_000_000, help="The most tokens of an answer."),
    cache: Path | None = CACHE,
) -> None:
    """Talk to what was trained, asked exactly as in training."""
    temperature = _usable(temperature)
    if prompt is not None:
        _check_prompt(prompt)
    asked: dict[str, Any] = {"temperature": temperature, "max_new_tokens": max_tokens}
    if run.suffix == ".gguf" or run.is_file():
        voices = _of_file(run, base, system, asked)
    else:
        voices = _of_run(run, base, system, cache, asked)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if prompt is not None:
        once(voices, prompt, write)
    else:
        print("Ctrl-D ends the conversation.", file=sys.stderr)
        converse(voices, lambda: input("> "), write)


def _of_run(run: Path, base: bool, system: str | None, cache: Path | None, asked: dict[str, Any]) -> Voices:
    if system is not None:
        why = "a run is asked with the system prompt that it was trained with"
        raise RecipeError("the system prompt is the run's", where="--system", why=why, fix="leave out --system")
    from finetune.run import open_run

    opened = open_run(run)
    quiet_libraries()
    from finetune.generate import voices

    return voices(opened, base=base, cache=cache, **asked)


def _of_file(file: Path, base: bool, system: str | None, asked: dict[str, Any]) -> Voices:
    """Opens a GGUF file; it does not hold the system prompt, which the run in whose folder it lies tells."""
    if base:
        why = "it holds the merged model only"
        raise RecipeError("a GGUF file has no base beside it", where="--base", why=why, fix="leave out --base")
    from finetune.llamacpp import open_gguf
    from finetune.run import Run, manifest

    around = Run(file.absolute().parent.parent)
    if system is None and around.manifest.is_file():
        system = manifest.read_begun(around.manifest)["serving"]["system"]
    return {"tuned": open_gguf(file, system=system, **asked)}


def _check_prompt(prompt: str) -> None:
    fix = '--prompt "What does clause 4 say?"'
    if not prompt.strip():
        raise RecipeError("the prompt is empty", where="--prompt", fix=fix)
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # a byte that is not UTF-8 comes from the shell as a lone surrogate
        raise RecipeError("the prompt is not UTF-8", where="--prompt", why=error.reason, fix=fix) from error


def _usable(temperature: float | None) -> float | None:
    """Takes a temperature by which logits can be divided; below 1e-4 they would overflow, and it means 0."""
    if temperature is None or temperature < 1e-4:
        return temperature and 0.0
    if not (math.isfinite(temperature) and temperature <= 100):
        why = "it is a number from 0 to 100"
        raise RecipeError(
            f"the temperature cannot be {temperature}", where="--temperature", why=why, fix="--temperature 1"
        )
    return temperature
