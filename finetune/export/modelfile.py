"""How Ollama serves a GGUF as it was trained: every parameter said, for its own defaults are others.

One description, `Served`; the Modelfile here and the API's request in `ollama.py` are two spellings of it. There is no
TEMPLATE in it: the one in the GGUF is used then, and that is the one of training. RENDERER and PARSER would put
Ollama's own code in its place. Source: Ollama 0.33, parser/parser.go, server/images.go, api/types.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.data.rendering import TURN_END
from finetune.recipe import load
from finetune.run import Run, manifest
from finetune.shards import read_json

REQUIRES = "0.30.4"
"""Of Ollama: since then a GGUF runs on llama.cpp's own server, projector included."""

LEAST_CONTEXT = 8192
"""Tokens of a conversation, even where the examples of training were shorter."""

SAMPLING: dict[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "repetition_penalty": ("repeat_penalty", float),
    "presence_penalty": ("presence_penalty", float),
}
"""Keys of generation_config.json, what Ollama calls them, and of what type its options are."""


@dataclass(frozen=True)
class Served:
    """How a model is served."""

    parameters: dict[str, int | float | list[str]]
    """Ollama's options: num_ctx, the sampling, and the tokens that end a turn under `stop`."""
    system: str
    """The prompt for conversations that have none; none if it is empty."""
    licence: str
    """Its text; none if it is empty."""
    requires: str = REQUIRES
    """The oldest Ollama that serves it."""


def served(*, sampling: Mapping[str, Any], stop: str, context: int, system: str | None, licence: str) -> Served:
    """Decides how a model is served.

    Args:
        sampling: the generation_config.json of the base.
        stop: the token that ends a turn.
        context: tokens of the longest example of training.
        system: the prompt for conversations that have none.
        licence: its text, or nothing.
    """
    parameters: dict[str, int | float | list[str]] = {"num_ctx": max(LEAST_CONTEXT, context)}
    for key, (name, kind) in SAMPLING.items():
        if sampling.get(key) is not None:
            parameters[name] = kind(sampling[key])
    parameters["stop"] = [stop]
    return Served(parameters, system or "", licence)


def served_as_trained(run: Run) -> Served:
    """Reads from a merged run how it is served.

    Raises:
        ArtifactError: its manifest or the base's sampling is damaged.
        RecipeError: its recipe is damaged.
    """
    generation, licence = run.merged / "generation_config.json", run.merged / "LICENSE"
    return served(
        sampling=read_json(generation, "the base's sampling") if generation.is_file() else {},
        stop=TURN_END,
        context=load(run.recipe).data.max_length,
        system=manifest.read_begun(run.manifest)["serving"]["system"],
        licence=licence.read_text() if licence.is_file() else "",
    )


def modelfile(gguf: str, how: Served, projector: str | None = None) -> str:
    """Writes a Modelfile.

    Args:
        gguf: name of the file beside it.
        how: it is served.
        projector: name of the vision's file beside it.
    """
    lines = [f"FROM ./{name}" for name in (gguf, projector) if name]
    for name, value in how.parameters.items():
        told = [f'"{each}"' for each in value] if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {each}" for each in told]
    if how.system:
        lines.append(f"SYSTEM {_quoted(how.system)}")
    lines.append(f"REQUIRES {how.requires}")
    if how.licence:
        lines.append(f"LICENSE {_quoted(how.licence)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Quotes text as Ollama's parser reads it: by three quotes, which it may not hold itself."""
    return f'"""{text.replace(chr(34) * 3, chr(39) * 3)}"""'
